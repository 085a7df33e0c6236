"""The backend dies at every step there is, is started again, and all its promises hold.

Real processes, SIGKILL, and a simulated EC2 that outlives them. `make test` goes through a few
points, `make test-crash` through every one on both databases, and `make test-crash DEEP=1` through
every occurrence of each in every scenario.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from zlib import crc32

import pytest

from tests.crash.failpoints import in_the_code
from tests.crash.harness import NotReached, Stage, Story
from tests.crash.scenarios import SCENARIOS, Scenario

NAMES = {scenario.name: scenario for scenario in SCENARIOS}


def act(stage: Stage, scenario: Scenario, point: str = "") -> Sequence[str]:
    """Play a scenario, with a crash or without; the points that it has reached."""
    stage.prepare(scenario.environment)
    story = Story(stage, scenario.name, point)
    scenario.play(story)
    story.crashed()
    reached = stage.reached
    stage.disarm()
    story.repeat()
    return reached


def points(scenario: Scenario, reached: Sequence[str]) -> Sequence[str]:
    """Where to crash: on both sides of each step, at each of its occurrences."""
    seen = Counter[str]()
    found = []
    for name in reached:
        step, _, side = name.partition(":before-")
        if side and (scenario.reads or not only_reads(step)):
            seen[step] += 1
            found += [f"{step}:{when}-{side} {seen[step]}" for when in ("before", "after")]
    return found


def only_reads(step: str) -> bool:
    """Also of the lease: each job takes it again and again, at any time."""
    return step.startswith("Describe") or "take_lease" in step


SHORT = [
    "failover.signals.record:after-commit 1",
    "RunInstances:after-call 1",
    "failover.instances.run_instances._record_launched:before-commit 1",
    "failover.reconcile.apply_step:after-commit 2",
]


def test_the_short_form_names_points_of_the_code() -> None:
    assert {point.rpartition(" ")[0] for point in SHORT} <= in_the_code()


@pytest.mark.parametrize("point", SHORT)
def test_the_short_form(stage: Stage, point: str) -> None:
    act(stage, NAMES["rebalance_then_termination"], point)


@pytest.mark.deep
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_it_comes_right_after_a_crash_at_any_occurrence_of_a_point(
    stage: Stage,
    scenario: Scenario,
    database_url: str,
    record_property: Callable[[str, object], None],
) -> None:
    where = points(scenario, act(stage, scenario))
    if not scenario.both:
        where = where["mariadb" in database_url :: 2]
    crash_at(stage, [(scenario, point) for point in where], database_url, record_property)


def crash_at(
    stage: Stage,
    crashes: Iterable[tuple[Scenario, str]],
    database_url: str,
    record_property: Callable[[str, object], None],
) -> None:
    count = 0
    went_wrong = {}
    for scenario, point in crashes:
        # A later occurrence may have come of a race alone; the first is there, if not every time.
        for _ in range(3 if point.endswith(" 1") else 1):
            with suppress(NotReached):
                try:
                    act(stage, scenario, point)
                except AssertionError as error:
                    went_wrong[f"{scenario.name}, {point}"] = f"{error}\n{stage.log()}"
                    stage.close()
                count += 1
                break
        else:
            assert not point.endswith(" 1"), f"{scenario.name}: {point} was not reached again"
    record_property("crashes", (database_url.partition(":")[0], count, len(went_wrong)))
    summary = "\n\n".join(f"{point}: {why}" for point, why in went_wrong.items())
    assert not went_wrong, f"{len(went_wrong)} of {count} points\n{summary}"


PARTS = 2
"""So many share the points, each on a processor of its own."""


def part_of(point: str) -> int:
    """The points around a step are in one part."""
    return crc32(point.partition(":")[0].encode()) % PARTS


@pytest.mark.crash
@pytest.mark.parametrize("part", range(PARTS))
def test_it_comes_right_after_a_crash_at_every_point_of_the_code(
    stage: Stage, database_url: str, part: int, record_property: Callable[[str, object], None]
) -> None:
    """Each at its first occurrence in the first scenario that reaches it."""
    found: set[str] = set()

    def crashes() -> Iterator[tuple[Scenario, str]]:
        for scenario in SCENARIOS:
            for point in points(scenario, act(stage, scenario)):
                name, _, occurrence = point.rpartition(" ")
                if occurrence == "1" and name not in found and part_of(name) == part:
                    found.add(name)
                    yield scenario, point

    crash_at(stage, crashes(), database_url, record_property)
    wanted = {name for name in in_the_code() if part_of(name) == part}
    missing = {name.partition(":")[0] for name in wanted - found}
    assert not missing, f"no scenario reaches {', '.join(sorted(missing))}"
