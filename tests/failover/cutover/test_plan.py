"""Order of the steps of a cutover, and how long each step is waited for."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sef.failover.cutover.plan import (
    HURRY_BELOW,
    PATIENCE,
    RESERVE,
    SKIPPED_IN_HURRY,
    StepState,
    is_wanted,
    next_due,
    next_step_of,
    plan_steps,
    skipped_steps,
    times_out_at,
    traffic_moved,
)
from sef.terms import StepKind, StepStatus
from tests.failover.cutover.test_targets import ARN, WHOLE

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONE_EACH = {**WHOLE, "target_groups": [{"arn": ARN}]}
MINUTE, SECONDS = timedelta(seconds=60), timedelta(seconds=5)


def kinds(left: timedelta | None, targets: Any = ONE_EACH) -> list[str]:
    return [str(step.kind) for step in plan_steps(targets, left)]


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
    assert skipped_steps(ONE_EACH, left) == []


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
    assert [step.stage for step in plan_steps(ONE_EACH, left)] == [0, 1, 1, 1, 1, 2, 2, 2, 3]
    assert {step.kind for step in skipped_steps(ONE_EACH, left)} == set(SKIPPED_IN_HURRY)


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
    steps = plan_steps(targets, left) + skipped_steps(targets, left)
    found = Counter((step.kind, str(step.target)) for step in steps)
    assert set(found.values()) <= {1}
    expected = {StepKind.RUNNING}
    for kind in StepKind:
        name = kind.replace("-", "_")
        if name in targets or (kind is StepKind.VOLUME and "volumes" in targets):
            expected.add(kind)
        if (
            kind in (StepKind.REGISTER, StepKind.HEALTHY, StepKind.DEREGISTER)
            and "target_groups" in targets
        ):
            expected.add(kind)
        if kind.startswith("webhook-") and kind[8:] in targets.get("webhooks", {}):
            expected.add(kind)
    assert {step.kind for step in steps} == expected
    assert all(is_wanted(step.kind, step.target, targets) for step in steps)


@given(TARGETS, LEFT)
def test_nothing_comes_before_running_and_stages_rise(targets: Any, left: timedelta | None) -> None:
    steps = plan_steps(targets, left)
    assert steps[0].kind is StepKind.RUNNING
    assert [step.stage for step in steps].count(0) == 1
    assert [step.stage for step in steps] == sorted(step.stage for step in steps)


@given(TARGETS, LEFT)
def test_nobody_is_deregistered_before_the_new_one_is_registered(
    targets: Any, left: timedelta | None
) -> None:
    steps = plan_steps(targets, left)
    stages = {kind: [s.stage for s in steps if s.kind is kind] for kind in StepKind}
    for stage in stages[StepKind.DEREGISTER]:
        assert all(other < stage for other in stages[StepKind.REGISTER] + stages[StepKind.HEALTHY])


@given(TARGETS, LEFT, LEFT)
def test_the_order_depends_on_the_time_left_alone(
    targets: Any, one: timedelta | None, other: timedelta | None
) -> None:
    is_same = (one is None or one >= HURRY_BELOW) == (other is None or other >= HURRY_BELOW)
    assert (plan_steps(targets, one) == plan_steps(targets, other)) or not is_same


def test_a_target_that_was_taken_away_is_not_wanted() -> None:
    assert is_wanted(StepKind.VOLUME, WHOLE["volumes"][0], WHOLE)
    assert not is_wanted(StepKind.VOLUME, {**WHOLE["volumes"][0], "device": "/dev/sdg"}, WHOLE)
    assert not is_wanted(StepKind.VOLUME, WHOLE["volumes"][0], {"elastic_ip": "eipalloc-0abc1234"})
    assert not is_wanted(StepKind.RUNNING, None, None)


# How long a step is waited for


@pytest.mark.parametrize(
    ("kind", "deadline", "expected"),
    [
        (StepKind.HEALTHY, None, PATIENCE[StepKind.HEALTHY]),
        (StepKind.HEALTHY, 600, PATIENCE[StepKind.HEALTHY]),
        (StepKind.HEALTHY, 60, timedelta(seconds=45)),
        (StepKind.HEALTHY, 16, timedelta(seconds=1)),
        (StepKind.HEALTHY, 10, timedelta(0)),
        (StepKind.HEALTHY, -60, timedelta(0)),
        (StepKind.WEBHOOK_BEFORE, 60, PATIENCE[StepKind.WEBHOOK_BEFORE]),
        (StepKind.WEBHOOK_BEFORE, 18, timedelta(seconds=3)),
        (StepKind.ELASTIC_IP, 5, PATIENCE[StepKind.ELASTIC_IP]),  # it is what the time was kept for
        (StepKind.RUNNING, 5, PATIENCE[StepKind.RUNNING]),
    ],
)
def test_what_is_awaited_leaves_time_for_the_moves(
    kind: StepKind, deadline: float | None, expected: timedelta
) -> None:
    until = None if deadline is None else NOW + timedelta(seconds=deadline)
    assert times_out_at(kind, NOW, until, hurried=False) - NOW == expected


@pytest.mark.parametrize(
    ("kind", "seconds"), [(StepKind.ELASTIC_IP, 5), (StepKind.REGISTER, 5), (StepKind.VOLUME, 60)]
)
def test_in_a_hurry_what_cannot_be_moved_at_once_is_not_waited_for(
    kind: StepKind, seconds: int
) -> None:
    for left in (-60, 5, 29):
        until = times_out_at(kind, NOW, NOW + timedelta(seconds=left), hurried=True)
        assert until - NOW == timedelta(seconds=seconds)


@given(st.sampled_from(StepKind), LEFT, st.booleans())
def test_patience_never_ends_before_it_begins_nor_eats_the_reserve(
    kind: StepKind, left: timedelta | None, hurried: bool
) -> None:
    deadline = None if left is None else NOW + left
    until = times_out_at(kind, NOW, deadline, hurried=hurried)
    assert NOW <= until <= NOW + PATIENCE[kind]
    if deadline is not None and kind is StepKind.HEALTHY and until > NOW and not hurried:
        assert until <= deadline - RESERVE


# Whose turn it is


def steps(left: timedelta | None, **statuses: str) -> list[StepState]:
    """The steps of a plan, done up to those that are said to be otherwise, and pending after."""
    told = {name.replace("_", "-"): StepStatus(status) for name, status in statuses.items()}
    found, is_behind = [], False
    for position, step in enumerate(plan_steps(ONE_EACH, left)):
        is_behind |= step.kind in told
        status = told.get(step.kind, StepStatus.PENDING if is_behind else StepStatus.DONE)
        found.append(StepState(position, step.stage, step.kind, status, NOW))
    return found


def turn(found: list[StepState], deadline: timedelta | None) -> str | None:
    step = next_step_of(found, None if deadline is None else NOW + deadline, NOW)
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
    assert not traffic_moved(found)


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
        if s.kind is not StepKind.WEBHOOK_BEFORE
        else s
        for s in found
    ]
    assert next_due(over, None) is None
    assert traffic_moved(over)


def test_the_new_primary_serves_before_the_last_webhook_is_sent() -> None:
    assert traffic_moved(steps(None, webhook_after="pending"))
    assert traffic_moved(steps(None, webhook_after="failed"))
    assert not traffic_moved(steps(None, deregister="pending"))
    assert not traffic_moved(steps(None, deregister="failed"))
