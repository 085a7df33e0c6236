"""In which order what belongs to an agent follows its primary, and how long each step is waited
for."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sef.core.cutover import (
    HURRY_BELOW,
    LEFT_OUT,
    PATIENCE,
    RESERVE,
    Kind,
    StepState,
    StepStatus,
    gives_up_at,
    is_wanted,
    left_out,
    next_due,
    next_step,
    plan,
    serves,
)
from tests.core.test_targets import ARN, WHOLE

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONE_EACH = {**WHOLE, "target_groups": [{"arn": ARN}]}
MINUTE, SECONDS = timedelta(seconds=60), timedelta(seconds=5)


def kinds(left: timedelta | None, targets: Any = ONE_EACH) -> list[str]:
    return [str(step.kind) for step in plan(targets, left)]


@pytest.mark.parametrize("left", [None, timedelta(hours=1), MINUTE, HURRY_BELOW])
def test_with_a_minute_the_new_primary_is_registered_and_awaited(left: timedelta | None) -> None:
    assert kinds(left) == [
        "running",
        "webhook-before",
        "volume",
        "network-interface",
        "private-ip",
        "register",
        "healthy",
        "elastic-ip",
        "dns",
        "deregister",
        "webhook-after",
    ]
    assert left_out(ONE_EACH, left) == []


@pytest.mark.parametrize("left", [timedelta(seconds=29), SECONDS, timedelta(0), -MINUTE])
def test_with_seconds_everything_is_moved_at_once(left: timedelta) -> None:
    assert kinds(left) == [
        "running",
        "elastic-ip",
        "private-ip",
        "dns",
        "register",
        "deregister",
        "network-interface",
        "volume",
        "webhook-after",
    ]
    assert [step.stage for step in plan(ONE_EACH, left)] == [0, 1, 1, 1, 1, 2, 2, 2, 3]
    assert {step.kind for step in left_out(ONE_EACH, left)} == LEFT_OUT


TARGETS = st.fixed_dictionaries(
    {},
    optional={
        "elastic_ip": st.just("eipalloc-0abc1234"),
        "target_groups": st.lists(
            st.builds(lambda n: {"arn": f"{ARN}{n}"}, st.integers(1, 9)),
            min_size=1,
            max_size=3,
            unique_by=lambda group: group["arn"],
        ),
        "dns": st.just(WHOLE["dns"]),
        "private_ip": st.just("10.0.0.9"),
        "network_interface": st.just(WHOLE["network_interface"]),
        "volumes": st.just(WHOLE["volumes"]),
        "webhooks": st.sampled_from(
            [{"before": "http://b.example"}, {"after": "http://a.example"}, WHOLE["webhooks"]]
        ),
    },
)
LEFT = st.none() | st.integers(-300, 300).map(lambda seconds: timedelta(seconds=seconds))


@given(TARGETS, LEFT)
def test_every_target_has_its_step_once(targets: Any, left: timedelta | None) -> None:
    steps = plan(targets, left) + left_out(targets, left)
    found = Counter((step.kind, str(step.target)) for step in steps)
    assert set(found.values()) <= {1}
    expected = {Kind.RUNNING}
    for kind in Kind:
        name = kind.replace("-", "_")
        if name in targets or (kind is Kind.VOLUME and "volumes" in targets):
            expected.add(kind)
        if kind in (Kind.REGISTER, Kind.HEALTHY, Kind.DEREGISTER) and "target_groups" in targets:
            expected.add(kind)
        if kind.startswith("webhook-") and kind[8:] in targets.get("webhooks", {}):
            expected.add(kind)
    assert {step.kind for step in steps} == expected
    assert all(is_wanted(step.kind, step.target, targets) for step in steps)


@given(TARGETS, LEFT)
def test_nothing_comes_before_running_and_stages_rise(targets: Any, left: timedelta | None) -> None:
    steps = plan(targets, left)
    assert steps[0].kind is Kind.RUNNING
    assert [step.stage for step in steps].count(0) == 1
    assert [step.stage for step in steps] == sorted(step.stage for step in steps)


@given(TARGETS, LEFT)
def test_nobody_is_deregistered_before_the_new_one_is_registered(
    targets: Any, left: timedelta | None
) -> None:
    steps = plan(targets, left)
    stages = {kind: [s.stage for s in steps if s.kind is kind] for kind in Kind}
    for stage in stages[Kind.DEREGISTER]:
        assert all(other < stage for other in stages[Kind.REGISTER] + stages[Kind.HEALTHY])


@given(TARGETS, LEFT, LEFT)
def test_the_order_depends_on_the_time_left_alone(
    targets: Any, one: timedelta | None, other: timedelta | None
) -> None:
    is_same = (one is None or one >= HURRY_BELOW) == (other is None or other >= HURRY_BELOW)
    assert (plan(targets, one) == plan(targets, other)) or not is_same


def test_a_target_that_was_taken_away_is_not_wanted() -> None:
    assert is_wanted(Kind.VOLUME, WHOLE["volumes"][0], WHOLE)
    assert not is_wanted(Kind.VOLUME, {**WHOLE["volumes"][0], "device": "/dev/sdg"}, WHOLE)
    assert not is_wanted(Kind.VOLUME, WHOLE["volumes"][0], {"elastic_ip": "eipalloc-0abc1234"})
    assert not is_wanted(Kind.RUNNING, None, None)


# How long a step is waited for


@pytest.mark.parametrize(
    ("kind", "deadline", "expected"),
    [
        (Kind.HEALTHY, None, PATIENCE[Kind.HEALTHY]),
        (Kind.HEALTHY, 600, PATIENCE[Kind.HEALTHY]),
        (Kind.HEALTHY, 60, timedelta(seconds=45)),
        (Kind.HEALTHY, 16, timedelta(seconds=1)),
        (Kind.HEALTHY, 10, timedelta(0)),
        (Kind.HEALTHY, -60, timedelta(0)),
        (Kind.WEBHOOK_BEFORE, 60, PATIENCE[Kind.WEBHOOK_BEFORE]),
        (Kind.WEBHOOK_BEFORE, 18, timedelta(seconds=3)),
        (Kind.ELASTIC_IP, 5, PATIENCE[Kind.ELASTIC_IP]),  # it is what the time was kept for
        (Kind.RUNNING, 5, PATIENCE[Kind.RUNNING]),
    ],
)
def test_what_is_awaited_leaves_time_for_the_moves(
    kind: Kind, deadline: float | None, expected: timedelta
) -> None:
    until = None if deadline is None else NOW + timedelta(seconds=deadline)
    assert gives_up_at(kind, NOW, until, hurried=False) - NOW == expected


@pytest.mark.parametrize(
    ("kind", "seconds"), [(Kind.ELASTIC_IP, 5), (Kind.REGISTER, 5), (Kind.VOLUME, 60)]
)
def test_in_a_hurry_what_cannot_be_moved_at_once_is_not_waited_for(
    kind: Kind, seconds: int
) -> None:
    for left in (-60, 5, 29):
        until = gives_up_at(kind, NOW, NOW + timedelta(seconds=left), hurried=True)
        assert until - NOW == timedelta(seconds=seconds)


@given(st.sampled_from(Kind), LEFT, st.booleans())
def test_patience_never_ends_before_it_begins_nor_eats_the_reserve(
    kind: Kind, left: timedelta | None, hurried: bool
) -> None:
    deadline = None if left is None else NOW + left
    until = gives_up_at(kind, NOW, deadline, hurried=hurried)
    assert NOW <= until <= NOW + PATIENCE[kind]
    if deadline is not None and kind is Kind.HEALTHY and until > NOW and not hurried:
        assert until <= deadline - RESERVE


# Whose turn it is


def steps(left: timedelta | None, **statuses: str) -> list[StepState]:
    """The steps of a plan, done up to those that are said to be otherwise, and pending after."""
    told = {name.replace("_", "-"): StepStatus(status) for name, status in statuses.items()}
    found, is_behind = [], False
    for position, step in enumerate(plan(ONE_EACH, left)):
        is_behind |= step.kind in told
        status = told.get(step.kind, StepStatus.PENDING if is_behind else StepStatus.DONE)
        found.append(StepState(position, step.stage, step.kind, status, NOW))
    return found


def turn(found: list[StepState], deadline: timedelta | None) -> str | None:
    step = next_step(found, None if deadline is None else NOW + deadline, NOW)
    return None if step is None else str(step.kind)


def later(found: list[StepState], *names: str) -> list[StepState]:
    """As they are, but these are not due yet."""
    at = NOW + timedelta(seconds=1)
    return [
        StepState(s.position, s.stage, s.kind, s.status, at if s.kind in names else s.not_before)
        for s in found
    ]


def test_steps_come_one_after_the_other() -> None:
    for kind in kinds(None):
        name = kind.replace("-", "_")
        assert turn(steps(None, **{name: "pending"}), None) == kind
    assert turn(steps(None, webhook_after="done"), None) is None


def test_what_is_pending_holds_up_the_stages_behind_it() -> None:
    waiting = later(steps(MINUTE, healthy="pending"), "healthy")
    assert turn(waiting, MINUTE) is None
    assert next_due(waiting, NOW + MINUTE) == NOW + timedelta(seconds=1)


def test_a_record_that_fails_holds_up_no_elastic_ip() -> None:
    for left in (None, MINUTE, SECONDS):
        found = steps(left, elastic_ip="pending", dns="failed")
        assert turn(found, left) == "elastic-ip"
    # Nor the other way round.
    assert turn(later(steps(None, elastic_ip="pending"), "elastic-ip"), None) == "dns"


@pytest.mark.parametrize("kind", ["volume", "network-interface", "private-ip"])
def test_before_a_deadline_the_service_moves_without_what_cannot_be_had(kind: str) -> None:
    name = kind.replace("-", "_")
    others = {"volume": "done", "network_interface": "done", "private_ip": "done"}
    found = later(steps(MINUTE, **{**others, name: "failed"}), kind)
    assert turn(found, MINUTE) == "register"


@pytest.mark.parametrize("kind", ["volume", "network-interface", "private-ip", "register"])
def test_without_one_the_old_primary_serves_on_until_it_can(kind: str) -> None:
    done = dict.fromkeys(["volume", "network_interface", "private_ip"], "done")
    done |= {"register": "done"} if kind == "register" else {}
    found = later(steps(None, **{**done, kind.replace("-", "_"): "failed"}), kind)
    assert turn(found, None) is None
    assert not serves(found)


def test_an_unhealthy_target_holds_up_a_planned_cutover_and_no_other() -> None:
    found = later(steps(None, healthy="failed"), "healthy")
    assert turn(found, None) is None
    assert turn(found, MINUTE) == "elastic-ip"


def test_nothing_is_moved_to_what_does_not_run() -> None:
    for left in (None, MINUTE, SECONDS, -MINUTE):
        for status in ("pending", "failed"):
            assert turn(later(steps(left, running=status), "running"), left) is None


def test_what_failed_is_tried_again_when_nothing_else_is_due() -> None:
    found = steps(MINUTE, elastic_ip="failed", dns="done")
    assert turn(found, MINUTE) == "deregister"
    assert turn(steps(MINUTE, elastic_ip="failed", dns="done", deregister="done",
                      webhook_after="done"), MINUTE) == "elastic-ip"  # fmt: skip


def test_a_webhook_that_was_to_come_before_is_not_sent_after() -> None:
    found = steps(None, webhook_before="failed")
    assert turn(found, None) == "volume"
    over = [
        StepState(s.position, s.stage, s.kind, StepStatus.DONE, NOW)
        if s.kind is not Kind.WEBHOOK_BEFORE
        else s
        for s in found
    ]
    assert next_due(over, None) is None
    assert serves(over)


def test_the_new_primary_serves_before_the_last_webhook_is_sent() -> None:
    assert serves(steps(None, webhook_after="pending"))
    assert serves(steps(None, webhook_after="failed"))
    assert not serves(steps(None, deregister="pending"))
    assert not serves(steps(None, deregister="failed"))
