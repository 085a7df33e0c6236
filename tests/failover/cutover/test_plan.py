"""The order of a cutover's steps, their time-outs, and the step that is due."""

from collections import Counter
from dataclasses import replace
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
    next_due,
    next_step_of,
    plan_steps,
    skipped_steps,
    times_out_at,
    traffic_moved,
    wanted_steps,
)
from sef.terms import StepKind, StepStatus
from tests.failover.cutover.test_targets import ARN, WHOLE

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONE_EACH = {**WHOLE, "target_groups": [{"arn": ARN}]}
MINUTE, SECONDS = timedelta(seconds=60), timedelta(seconds=5)


def kinds(left: timedelta | None, targets: Any = ONE_EACH) -> list[str]:
    return [str(step.kind) for step in plan_steps(targets, left)]


@pytest.mark.parametrize("left", [None, timedelta(hours=1), MINUTE, HURRY_BELOW])
def test_with_a_minute_left_the_new_primary_is_awaited_before_the_traffic_moves(
    left: timedelta | None,
) -> None:
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
def test_with_seconds_left_every_target_moves_at_once(left: timedelta) -> None:
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
def test_every_target_has_one_step_of_each_of_its_kinds(
    targets: Any, left: timedelta | None
) -> None:
    steps = plan_steps(targets, left) + skipped_steps(targets, left)
    counts = Counter((step.kind, str(step.target)) for step in steps)
    assert set(counts.values()) <= {1}
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
    wanted = wanted_steps(targets) or [(StepKind.RUNNING, None)]  # stored targets are never empty
    assert all((step.kind, step.target) in wanted for step in steps)
    assert len(wanted) == len(steps)


@given(TARGETS, LEFT)
def test_running_is_the_only_step_of_the_first_stage(targets: Any, left: timedelta | None) -> None:
    steps = plan_steps(targets, left)
    assert steps[0].kind is StepKind.RUNNING
    assert [step.stage for step in steps].count(0) == 1
    assert [step.stage for step in steps] == sorted(step.stage for step in steps)


@given(TARGETS, LEFT)
def test_former_primaries_are_deregistered_after_the_new_one_is_registered(
    targets: Any, left: timedelta | None
) -> None:
    steps = plan_steps(targets, left)
    stages = {kind: [s.stage for s in steps if s.kind is kind] for kind in StepKind}
    for stage in stages[StepKind.DEREGISTER]:
        assert all(other < stage for other in stages[StepKind.REGISTER] + stages[StepKind.HEALTHY])


@given(TARGETS, LEFT, LEFT)
def test_order_depends_only_on_the_hurry(
    targets: Any, one: timedelta | None, other: timedelta | None
) -> None:
    is_same = (one is None or one >= HURRY_BELOW) == (other is None or other >= HURRY_BELOW)
    assert (plan_steps(targets, one) == plan_steps(targets, other)) or not is_same


def test_step_of_a_removed_target_is_not_wanted() -> None:
    volume = WHOLE["volumes"][0]
    assert (StepKind.VOLUME, volume) in wanted_steps(WHOLE)
    assert (StepKind.VOLUME, {**volume, "device": "/dev/sdg"}) not in wanted_steps(WHOLE)
    assert (StepKind.VOLUME, volume) not in wanted_steps({"elastic_ip": "eipalloc-0abc1234"})
    assert wanted_steps(None) == []


# Time-outs


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
        (StepKind.ELASTIC_IP, 5, PATIENCE[StepKind.ELASTIC_IP]),  # the reserve is for this step
        (StepKind.RUNNING, 5, PATIENCE[StepKind.RUNNING]),
    ],
)
def test_time_out_keeps_a_reserve_for_the_moves(
    kind: StepKind, deadline: float | None, expected: timedelta
) -> None:
    until = None if deadline is None else NOW + timedelta(seconds=deadline)
    assert times_out_at(kind, NOW, until, hurried=False) - NOW == expected


@pytest.mark.parametrize(
    ("kind", "seconds"), [(StepKind.ELASTIC_IP, 5), (StepKind.REGISTER, 5), (StepKind.VOLUME, 60)]
)
def test_hurried_cutover_has_short_time_outs_for_its_first_moves(
    kind: StepKind, seconds: int
) -> None:
    for left in (-60, 5, 29):
        until = times_out_at(kind, NOW, NOW + timedelta(seconds=left), hurried=True)
        assert until - NOW == timedelta(seconds=seconds)


@given(st.sampled_from(StepKind), LEFT, st.booleans())
def test_time_out_is_never_before_the_start_or_within_the_reserve(
    kind: StepKind, left: timedelta | None, hurried: bool
) -> None:
    deadline = None if left is None else NOW + left
    until = times_out_at(kind, NOW, deadline, hurried=hurried)
    assert NOW <= until <= NOW + PATIENCE[kind]
    if deadline is not None and kind is StepKind.HEALTHY and until > NOW and not hurried:
        assert until <= deadline - RESERVE


# The step that is due


def steps(left: timedelta | None, **statuses: str) -> list[StepState]:
    """Return the steps of a plan: done before the first step of `statuses`, pending after it."""
    given = {name.replace("_", "-"): StepStatus(status) for name, status in statuses.items()}
    states, is_behind = [], False
    for position, step in enumerate(plan_steps(ONE_EACH, left)):
        is_behind |= step.kind in given
        status = given.get(step.kind, StepStatus.PENDING if is_behind else StepStatus.DONE)
        states.append(StepState(position, step.kind, status, NOW))
    return states


def ending(states: list[StepState], left: timedelta | None, *kinds: str) -> list[StepState]:
    """Return the states with an end of the holders: of all steps, or of those of `kinds`."""
    if left is None:
        return states
    return [
        replace(s, ends_at=NOW + left, is_hurried=left < HURRY_BELOW)
        if not kinds or s.kind in kinds
        else s
        for s in states
    ]


def due(states: list[StepState], deadline: timedelta | None) -> str | None:
    step = next_step_of(ending(states, deadline), NOW)
    return None if step is None else str(step.kind)


def not_due(states: list[StepState], *kinds: str) -> list[StepState]:
    """Return the states with the steps of `kinds` due only in a second."""
    later = NOW + timedelta(seconds=1)
    return [replace(s, not_before=later) if s.kind in kinds else s for s in states]


def test_calm_steps_are_due_one_after_the_other() -> None:
    for kind in kinds(None):
        name = kind.replace("-", "_")
        assert due(steps(None, **{name: "pending"}), None) == kind
    assert due(steps(None, webhook_after="done"), None) is None


def test_pending_step_blocks_the_stages_after_it() -> None:
    states = not_due(steps(MINUTE, healthy="pending"), "healthy")
    assert due(states, MINUTE) is None
    assert next_due(ending(states, MINUTE), NOW) == NOW + timedelta(seconds=1)


def test_failed_record_does_not_delay_the_elastic_ip() -> None:
    for left in (None, MINUTE, SECONDS):
        states = steps(left, elastic_ip="pending", dns="failed")
        assert due(states, left) == "elastic-ip"
    # A pending Elastic IP does not delay the record either.
    assert due(not_due(steps(None, elastic_ip="pending"), "elastic-ip"), None) == "dns"


@pytest.mark.parametrize("kind", ["volume", "network-interface", "private-ip"])
def test_with_a_deadline_a_failed_attachment_does_not_block_the_traffic(kind: str) -> None:
    name = kind.replace("-", "_")
    others = {"volume": "done", "network_interface": "done", "private_ip": "done"}
    states = not_due(steps(MINUTE, **{**others, name: "failed"}), kind)
    assert due(states, MINUTE) == "register"


@pytest.mark.parametrize("kind", ["volume", "network-interface", "private-ip", "register"])
def test_without_a_deadline_a_failed_attachment_blocks_the_traffic(kind: str) -> None:
    done = dict.fromkeys(["volume", "network_interface", "private_ip"], "done")
    done |= {"register": "done"} if kind == "register" else {}
    states = not_due(steps(None, **{**done, kind.replace("-", "_"): "failed"}), kind)
    assert due(states, None) is None
    assert not traffic_moved(states)


def test_unhealthy_primary_blocks_only_a_cutover_without_a_deadline() -> None:
    states = not_due(steps(None, healthy="failed"), "healthy")
    assert due(states, None) is None
    assert due(states, MINUTE) == "elastic-ip"


def test_no_step_is_due_before_the_new_primary_runs() -> None:
    for left in (None, MINUTE, SECONDS, -MINUTE):
        for status in ("pending", "failed"):
            assert due(not_due(steps(left, running=status), "running"), left) is None


def test_failed_step_is_due_when_no_pending_step_is() -> None:
    states = steps(MINUTE, elastic_ip="failed", dns="done")
    assert due(states, MINUTE) == "deregister"
    assert due(steps(MINUTE, elastic_ip="failed", dns="done", deregister="done",
                      webhook_after="done"), MINUTE) == "elastic-ip"  # fmt: skip


def test_failed_before_webhook_is_over() -> None:
    states = steps(None, webhook_before="failed")
    assert due(states, None) == "volume"
    over = [
        s if s.kind is StepKind.WEBHOOK_BEFORE else replace(s, status=StepStatus.DONE)
        for s in states
    ]
    assert next_due(over, NOW) is None
    assert traffic_moved(over)


def test_traffic_has_moved_before_the_after_webhook_is_sent() -> None:
    assert traffic_moved(steps(None, webhook_after="pending"))
    assert traffic_moved(steps(None, webhook_after="failed"))
    assert not traffic_moved(steps(None, deregister="pending"))
    assert not traffic_moved(steps(None, deregister="failed"))


@pytest.mark.parametrize(("left", "after"), [(None, "healthy"), (SECONDS, "running")])
def test_routes_move_with_the_traffic(left: timedelta | None, after: str) -> None:
    route = {"route_table_id": "rtb-0abc1234", "destination_cidr": "0.0.0.0/0"}
    targets: Any = {"routes": [route], "target_groups": WHOLE["target_groups"][:1]}
    order = kinds(left, targets)
    assert order.index("route") == order.index(after) + 1
    assert "route" in [kind for kind, _ in wanted_steps(targets)]


# Targets that move with another one


def carried(kind: StepKind, *after: StepKind, **values: Any) -> StepState:
    position = list(StepKind).index(kind)
    state = StepState(position, kind, StepStatus.PENDING, NOW, after=frozenset(after))
    return replace(state, **values)


def with_end(left: timedelta | None) -> dict[str, Any]:
    return {"ends_at": None if left is None else NOW + left, "is_hurried": left == SECONDS}


@pytest.mark.parametrize("left", [None, MINUTE, SECONDS])
def test_carrier_moves_before_what_it_carries(left: timedelta | None) -> None:
    ends = with_end(left)
    both = (StepKind.NETWORK_INTERFACE, StepKind.PRIVATE_IP)
    steps = [
        carried(StepKind.ELASTIC_IP, *both, **ends),
        carried(StepKind.PRIVATE_IP, StepKind.NETWORK_INTERFACE, **ends),
        carried(StepKind.NETWORK_INTERFACE, **ends),
    ]
    order = []
    while steps:
        step = next_step_of(steps, NOW)
        assert step is not None
        order.append(step.kind)
        steps.remove(step)
    assert order == [*both, StepKind.ELASTIC_IP]


@pytest.mark.parametrize(("left", "waits"), [(None, True), (MINUTE, False), (SECONDS, False)])
def test_failed_carrier_is_awaited_while_nothing_presses(
    left: timedelta | None, waits: bool
) -> None:
    ends = with_end(left)
    later = {"not_before": NOW + SECONDS, "status": StepStatus.FAILED}
    interface = carried(StepKind.NETWORK_INTERFACE, **ends, **later)
    elastic = carried(StepKind.ELASTIC_IP, StepKind.NETWORK_INTERFACE, **ends)
    assert (next_step_of([elastic, interface], NOW) is None) is waits


def test_target_that_goes_back_comes_first() -> None:
    back = carried(StepKind.NETWORK_INTERFACE, status=StepStatus.FAILED, goes_back=True)
    assert next_step_of([carried(StepKind.VOLUME), back], NOW) == back
