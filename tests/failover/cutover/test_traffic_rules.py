"""Ports that are carried over, values that are replaced, and instances that stay in a group."""

from datetime import UTC, datetime, timedelta

import pytest

from sef.cloud.traffic import Target
from sef.failover.cutover.plan import (
    HURRIED_PATIENCE,
    RESERVE,
    TOLD_WHEN_THROTTLED_FOR,
    StepState,
    next_step_of,
    throttled_until,
)
from sef.failover.cutover.traffic_rules import (
    Port,
    missing,
    reason_to_stay,
    unhealthy,
    values_with,
    wanted_ports,
)
from sef.terms import StepKind, StepStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def old(port: int, state: str = "healthy") -> Target:
    return Target("i-old", port, state)


def new(port: int, state: str = "healthy") -> Target:
    return Target("i-new", port, state)


@pytest.mark.parametrize(
    ("targets", "explicit", "remembered", "ports"),
    [
        pytest.param([], None, [], {None}, id="nothing is known: the port of the group"),
        pytest.param([old(80), old(81)], None, [82], {80, 81}, id="the group shows them"),
        pytest.param([old(80, "unused")], None, [82], {80}, id="dead and still listed"),
        pytest.param([old(80, "draining")], None, [82], {82}, id="leaving: remembered"),
        pytest.param([old(80, "draining")], None, [], {80}, id="leaving and not remembered"),
        pytest.param([], None, [80, 81], {80, 81}, id="no longer listed"),
        pytest.param([old(80), old(81)], 7, [82], {7}, id="named by the operator"),
        pytest.param([Target("i-older", 80, "healthy")], None, [], {80}, id="of an older primary"),
        pytest.param([Target("i-other", 80, "healthy")], None, [], {None}, id="of another agent"),
        pytest.param([new(90)], None, [80], {80}, id="those of the new primary are no model"),
    ],
)
def test_ports_are_those_of_the_old_primary(
    targets: list[Target], explicit: Port, remembered: list[int], ports: set[Port]
) -> None:
    found = wanted_ports(targets, explicit, "i-old", {"i-old", "i-older"}, remembered)
    assert found == ports


@pytest.mark.parametrize(
    ("targets", "ports", "left"),
    [
        ([], {None}, [None]),
        ([new(80)], {None}, []),
        ([new(80)], {80, 90}, [90]),
        ([new(80, "draining")], {80}, [80]),
        ([Target("i-new", 80, "unused", "Target.NotRegistered")], {80}, [80]),
        ([new(80, "unhealthy"), new(90, "initial")], {80, 90}, []),
        ([old(80)], {80}, [80]),
    ],
)
def test_instance_is_registered_on_each_port_that_it_lacks(
    targets: list[Target], ports: set[Port], left: list[Port]
) -> None:
    assert missing(targets, ports, "i-new") == left


def test_instance_is_healthy_once_it_is_on_all_ports() -> None:
    slow = new(90, "initial")
    assert unhealthy([new(80), slow], {80, 90}, "i-new") == slow
    assert unhealthy([new(80), slow], {80}, "i-new") is None
    assert unhealthy([new(80), slow], {None}, "i-new") == slow
    assert unhealthy([new(80), new(90)], {80, 90}, "i-new") is None


@pytest.mark.parametrize(
    ("targets", "seconds_left", "reason"),
    [
        ([old(80), new(80)], None, None),
        ([old(80), new(80, "unused")], None, None),
        ([old(80, "unused")], None, "i-old stays, because i-new is not registered"),
        ([old(80)], 60, "i-old stays, because i-new is not registered"),
        ([old(80)], 0, None),
        ([old(80), new(80, "initial")], None, "i-old stays, because i-new is initial"),
        ([old(80), new(80, "unhealthy")], 6, "i-old stays, because i-new is unhealthy"),
        ([old(80), new(80, "unhealthy")], 5, None),
        ([old(80, "unhealthy"), new(80, "initial")], 60, None),
        ([new(80, "initial")], None, None),
    ],
)
def test_group_keeps_the_instance_that_serves(
    targets: list[Target], seconds_left: int | None, reason: str | None
) -> None:
    ends_at = None if seconds_left is None else NOW + seconds_left * SECOND
    assert reason_to_stay(targets, {"i-old"}, "i-new", ends_at, NOW) == reason


@pytest.mark.parametrize(
    ("values", "own", "result"),
    [
        ([], [], ["n"]),
        (["x"], [], ["n"]),
        (["a", "x", "b"], ["x"], ["a", "n", "b"]),
        (["a", "x", "y"], ["x", "y"], ["a", "n"]),
        (["a", "n", "x"], ["x"], ["a", "n"]),
        (["a", "n"], [], ["a", "n"]),
        (["a", "b"], ["x"], None),
    ],
)
def test_own_value_is_replaced_and_the_others_stay(
    values: list[str], own: list[str], result: list[str] | None
) -> None:
    assert values_with(values, "n", own) == result


def test_throttled_step_fails_only_when_a_deadline_is_near() -> None:
    assert throttled_until(NOW, None) == NOW + TOLD_WHEN_THROTTLED_FOR
    assert throttled_until(NOW, NOW + 120 * SECOND) == NOW + 120 * SECOND - RESERVE
    assert throttled_until(NOW, NOW + 10 * SECOND) == NOW + HURRIED_PATIENCE


@pytest.mark.parametrize(
    ("is_waiting", "left", "kind"),
    [(False, 100, None), (True, 100, StepKind.ELASTIC_IP), (True, None, None)],
)
def test_waiting_step_blocks_others_no_longer_than_its_time_out(
    is_waiting: bool, left: int | None, kind: StepKind | None
) -> None:
    ends_at = None if left is None else NOW + left * SECOND
    later, started = NOW + 60 * SECOND, NOW - 60 * SECOND
    steps = [
        StepState(
            0, StepKind.PRIVATE_IP, StepStatus.PENDING, later, started, ends_at, False, is_waiting
        ),
        StepState(1, StepKind.ELASTIC_IP, StepStatus.PENDING, NOW, None, ends_at),
    ]
    found = next_step_of(steps, NOW)
    assert (found and found.kind) == kind
