"""Kill the backend at every failpoint, start it again, and check all invariants.

The processes and SIGKILL are real, and the simulated EC2 survives them. `make test-crash` crashes
at every failpoint on both databases; `make test-crash DEEP=1` at every occurrence of each failpoint
in every scenario.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import pytest

from tests.crash.failpoints import all_failpoints
from tests.crash.harness import NotReached, Stage, Story
from tests.crash.scenarios import SCENARIOS, Scenario

NAMES = {scenario.name: scenario for scenario in SCENARIOS}


def play(stage: Stage, scenario: Scenario, point: str = "") -> Sequence[str]:
    """Play a scenario, with or without a crash, and return the failpoints that it reached."""
    stage.prepare(scenario.environment)
    story = Story(stage, scenario.name, point)
    scenario.play(story)
    story.await_crash()
    reached = stage.reached
    stage.disarm()
    story.check_repeats()
    return reached


def points_of(scenario: Scenario, reached: Sequence[str]) -> Sequence[str]:
    """Return the points to crash at: both sides of each step, at each of its occurrences."""
    seen = Counter[str]()
    points = []
    for name in reached:
        step, _, side = name.partition(":before-")
        if side and (scenario.reads or not only_reads(step)):
            seen[step] += 1
            points += [f"{step}:{when}-{side} {seen[step]}" for when in sides_of(step)]
    return points


def sides_of(step: str) -> Sequence[str]:
    """Return the sides to crash at: nothing happens between the sides of a call that reads."""
    return ("after",) if step.startswith("Describe") else ("before", "after")


def only_reads(step: str) -> bool:
    """Return True for a call that only reads, and for leases: every job takes one at any time."""
    return step.startswith("Describe") or "take_lease" in step


SHORT = [
    "failover.signals.record:after-commit 1",
    "RunInstances:after-call 1",
    "failover.instances.run_instances._record_launched:before-commit 1",
    "failover.reconcile.apply_step:after-commit 2",
]


def test_the_points_of_the_short_form_exist() -> None:
    assert {point.rpartition(" ")[0] for point in SHORT} <= all_failpoints()


@pytest.mark.deep
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_it_recovers_from_a_crash_at_every_occurrence_of_a_failpoint(
    stage: Stage,
    scenario: Scenario,
    database_url: str,
    record_property: Callable[[str, object], None],
) -> None:
    where = points_of(scenario, play(stage, scenario))
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
    failed = {}
    for scenario, point in crashes:
        # A later occurrence may be the result of a race. The first one happens, if not every time.
        for _ in range(3 if point.endswith(" 1") else 1):
            with suppress(NotReached):
                try:
                    play(stage, scenario, point)
                except AssertionError as error:
                    failed[f"{scenario.name}, {point}"] = f"{error}\n{stage.log()}"
                    stage.close()
                count += 1
                break
        else:
            assert not point.endswith(" 1"), f"{scenario.name}: {point} was not reached again"
    record_property("crashes", (database_url.partition(":")[0], count, len(failed)))
    summary = "\n\n".join(f"{point}: {reason}" for point, reason in failed.items())
    assert not failed, f"{len(failed)} of {count} points\n{summary}"


PARTS = 6
"""Number of tests that share the failpoints and run at the same time: a crash is mostly waiting."""


def part_of(point: str) -> int:
    """Return the part of a failpoint; both sides of a step are in the same part."""
    return crc32(point.partition(":")[0].encode()) % PARTS


def reached_in(stage: Stage, scenario: Scenario, known: Path) -> Sequence[str]:
    """Return the failpoints of a scenario: as another part has found them, or by playing it."""
    file = known / f"{scenario.name}.json"
    if file.exists():
        return list(json.loads(file.read_text()))
    reached = play(stage, scenario)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(list(reached)))
    partial.rename(file)
    return reached


@pytest.mark.crash
@pytest.mark.parametrize("part", range(PARTS))
def test_it_recovers_from_a_crash_at_every_failpoint(
    stage: Stage,
    database_url: str,
    part: int,
    record_property: Callable[[str, object], None],
    tmp_path_factory: pytest.TempPathFactory,
    testrun_uid: str,
) -> None:
    """Crash at the first occurrence of each failpoint, in the first scenario that reaches it.

    The parts begin at different scenarios, and share what they find.
    """
    crashed: set[str] = set()
    database = database_url.partition(":")[0]
    known = tmp_path_factory.getbasetemp().parent / f"reached-{testrun_uid}-{database}"
    known.mkdir(exist_ok=True)

    def crashes() -> Iterator[tuple[Scenario, str]]:
        first = part * len(SCENARIOS) // PARTS
        for scenario in [*SCENARIOS[first:], *SCENARIOS[:first]]:
            for point in points_of(scenario, reached_in(stage, scenario, known)):
                name, _, occurrence = point.rpartition(" ")
                if occurrence == "1" and name not in crashed and part_of(name) == part:
                    crashed.add(name)
                    yield scenario, point

    crash_at(stage, crashes(), database_url, record_property)
    expected = {
        name
        for name in all_failpoints()
        if part_of(name) == part and name.partition(":")[2].partition("-")[0] in sides_of(name)
    }
    missing = {name.partition(":")[0] for name in expected - crashed}
    assert not missing, f"no scenario reaches {', '.join(sorted(missing))}"


@pytest.mark.crash
@pytest.mark.parametrize("point", SHORT)
def test_it_recovers_from_the_crashes_of_the_short_form(stage: Stage, point: str) -> None:
    play(stage, NAMES["rebalance_then_termination"], point)
