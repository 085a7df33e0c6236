"""The dry run of a signal while a launch is under way, and when no launch is possible."""

from typing import Any

import pytest

from tests.failover.cutover.cutover_targets import SAME_ZONE, Belongings
from tests.harness import ONCE, OTHERS, REBALANCE, TERMINATION, World


def steps(answer: dict[str, Any]) -> list[str]:
    return [step["step"] for step in answer["plan"]]


@ONCE
def test_launching_standby_is_awaited_for_the_rest_of_the_usual_time(world: World) -> None:
    sef = world.sef()
    world.primary(sef, "b")
    sef.enable_manual_replica_mode("b")
    sef = world.sef(simulator_pending_seconds=600)
    world.primary(sef)
    assert world.signal(sef, REBALANCE)["action"] == "replica_launching"
    standby = world.standby().instance_id
    answer = world.signal(sef, TERMINATION, dry_run=True)
    assert steps(answer) == ["await", "promote", "leave"]
    assert answer["plan"][0]["instance_id"] == standby
    assert answer["plan"][0]["expected_seconds"] == 0
    assert answer["action"] == "replica_launching"


@ONCE
def test_plan_repeats_an_unanswered_launch_instead_of_another_one(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code="RequestLimitExceeded")
    world.signal(sef, REBALANCE)
    world.simulation.clear_faults()
    [attempt] = world.attempts()
    assert attempt.status == "open"
    world.clock.advance(60)
    answer = world.signal(sef, TERMINATION, dry_run=True)
    assert steps(answer) == ["await", "promote", "leave"]
    assert attempt.pool_id in answer["plan"][0]["sentence"]
    assert world.attempts() == [attempt]


@ONCE
def test_plan_ends_with_a_problem_when_no_pool_has_capacity(world: World) -> None:
    sef = world.sef(spot_pools=",".join(OTHERS))
    world.primary(sef)
    for pool in OTHERS:
        world.simulation.set_pool(pool, capacity=False)
    assert world.signal(sef, REBALANCE)["action"] == "waiting"
    world.clock.advance(61)
    answer = world.signal(sef, REBALANCE, dry_run=True)
    [launch] = answer["plan"]
    assert (launch["candidates"], launch["step"]) == ([], "launch")
    assert "no pool has capacity" in launch["problem"]
    assert answer["budget"]["expected_seconds"] is None


def at_its_limit(world: World) -> Any:
    sef = world.sef(
        max_launches_per_hour=1, interrupted_pool_cooldown_seconds=0, probation_seconds=0
    )
    world.signal(sef, TERMINATION, instance_id=world.primary(sef))
    world.settle(sef, 30)
    return sef


def without_capacity(world: World) -> Any:
    sef = world.sef(spot_pools=",".join(OTHERS))
    world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    sef.enable_manual_replica_mode("a")
    sef.disable_manual_replica_mode("a")
    world.clock.advance(61)
    return sef


def without_launch_configuration(world: World) -> Any:
    sef = world.sef(launch_template="")
    sef.register_agent("a", {"pool_id": OTHERS[0]})
    return sef


def forbidden(world: World) -> Any:
    sef = world.sef()
    world.primary(sef)
    world.simulation.add_fault("DescribeInstances", error_code="UnauthorizedOperation")
    return sef


@pytest.mark.parametrize(
    ("obstacle", "signal"),
    [
        (at_its_limit, REBALANCE),
        (at_its_limit, TERMINATION),
        # In an emergency the real call asks EC2 in spite of cooldowns; a dry run cannot.
        (without_capacity, REBALANCE),
        (without_launch_configuration, TERMINATION),
        (forbidden, REBALANCE),
    ],
)
@ONCE
def test_impossible_launch_has_the_action_and_message_of_the_real_call(
    world: World, obstacle: Any, signal: str
) -> None:
    sef = obstacle(world)
    primary = world.agent().instance_id
    named = {} if primary is None else {"instance_id": primary}
    planned = world.signal(sef, signal, dry_run=True, **named)
    real = world.signal(sef, signal, **named)
    assert real["action"] == "waiting"
    assert (planned["action"], planned["message"]) == (real["action"], real["message"])
    assert planned["plan"][-1]["problem"] is not None


@ONCE
def test_postponed_launch_is_planned_as_a_wait_with_its_reason(world: World) -> None:
    sef = at_its_limit(world)
    signal = {"at": world.clock(), "instance_id": world.agent().instance_id}
    assert world.signal(sef, TERMINATION, **signal)["action"] == "waiting"
    [wait] = world.signal(sef, TERMINATION, **signal, dry_run=True)["plan"]
    assert wait["step"] == "wait"
    assert "SEF_MAX_LAUNCHES_PER_HOUR" in wait["reason"]


@ONCE
def test_plan_names_the_missing_launch_template(world: World) -> None:
    sef = world.sef(launch_template="")
    sef.register_agent("a", {"pool_id": OTHERS[0]})
    [launch] = world.signal(sef, TERMINATION, dry_run=True)["plan"]
    assert "launch template" in launch["problem"]


@pytest.mark.parametrize("left", [120, 20])
@ONCE
def test_plan_lists_skipped_cutover_steps_with_seconds_left(world: World, left: int) -> None:
    sef = world.sef(spot_pools=",".join(SAME_ZONE))
    primary = world.primary(sef)
    sef.register_agent("a", {"cutover": Belongings(world, primary, "target_groups").targets})
    end = world.clock().timestamp() + left
    answer = world.signal(sef, TERMINATION, termination_time=end, dry_run=True)
    assert ("skip" in steps(answer)) == (left == 20)
    assert answer["budget"]["seconds_left"] == pytest.approx(left)


@ONCE
def test_plan_of_an_auto_switch_ends_with_the_termination_of_the_old_primary(
    world: World,
) -> None:
    sef = world.sef(spot_pools=",".join(SAME_ZONE), drain_seconds=90.0)
    primary = world.primary(sef)
    sef.register_agent("a", {"cutover": Belongings(world, primary, "elastic_ip").targets})
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    sef.set_auto_mode("a", "auto-terminate", enabled=True)
    last = world.signal(sef, REBALANCE, dry_run=True)["plan"][-1]
    assert (last["step"], last["instance_id"], last["expected_seconds"]) == (
        "terminate",
        primary,
        90,
    )
    assert last["sentence"].endswith("once all cutover targets have moved")
