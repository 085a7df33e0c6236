"""Former primaries: SEF keeps one while something may need it, and terminates it afterwards."""

from collections.abc import Callable
from typing import Any

import pytest

from sef.errors import Conflict
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import owner
from tests.harness import ALIVE, ONCE, POOL, REBALANCE, TERMINATION, World

FULL = "InsufficientInstanceCapacity"
DAY = 86_400


def settle(world: World, sef: SmartEmergencyFallback, times: int, seconds: float) -> None:
    for _ in range(times):
        world.settle(sef, seconds)


def no_capacity(world: World) -> None:
    world.simulation.add_fault("RunInstances", error_code=FULL)


def by_auto_switch(world: World, sef: SmartEmergencyFallback, primary: str) -> str:
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    sef.set_auto_mode("a", "auto-terminate", enabled=True)
    world.signal(sef, REBALANCE, instance_id=primary)
    settle(world, sef, 2, 5)
    return str(world.agent().instance_id)


def by_drill(world: World, sef: SmartEmergencyFallback, primary: str) -> str:
    sef.register_agent("a", {"drill_interval": 600})
    world.clock.advance(600)
    sef.plan_switchovers()
    settle(world, sef, 2, 5)
    return str(world.agent().instance_id)


Switch = Callable[[World, SmartEmergencyFallback, str], str]
SWITCHES = pytest.mark.parametrize("switch", [by_auto_switch, by_drill])


def moved(world: World, switch: Switch, **settings: Any) -> tuple[SmartEmergencyFallback, str, str]:
    """Return SEF, the former primary that drains, and the new primary."""
    sef = world.sef(probation_seconds=0, **settings)
    former = world.primary(sef)
    primary = switch(world, sef, former)
    assert primary != former
    assert world.state(former) in ALIVE
    return sef, former, primary


@ONCE
@SWITCHES
def test_a_former_primary_serves_again_if_its_successor_cannot_be_replaced(
    world: World, switch: Switch
) -> None:
    sef, former, primary = moved(world, switch)
    no_capacity(world)
    world.signal(sef, TERMINATION, instance_id=primary)
    settle(world, sef, 8, 10)
    world.simulation.terminate(primary)
    settle(world, sef, 8, 60)
    assert world.state(former) in ALIVE
    assert world.agent().instance_id == former
    assert world.agent().epoch == 3


@ONCE
@SWITCHES
def test_a_former_primary_is_kept_while_its_successor_is_gone(world: World, switch: Switch) -> None:
    """Nothing was announced, and the loss is not detected yet."""
    sef, former, primary = moved(world, switch)
    world.simulation.terminate(primary)
    settle(world, sef, 8, 10)
    assert world.state(former) in ALIVE
    [shown] = sef.get_agent_status("a")["former_primaries"]
    assert shown["reason"] == f"EC2 does not show the primary {primary} running"


@ONCE
@SWITCHES
def test_a_lost_successor_is_replaced_by_the_former_primary_at_once(
    world: World, switch: Switch
) -> None:
    sef, former, primary = moved(world, switch)
    no_capacity(world)
    world.simulation.terminate(primary)
    settle(world, sef, 50, 10)
    assert sef.detect_losses() == 1
    settle(world, sef, 2, 15)
    assert world.agent().instance_id == former
    world.simulation.clear_faults()
    settle(world, sef, 30, 60)
    # With a recommendation, auto-switch goes on to a safer pool as soon as one has capacity.
    assert (world.agent().instance_id == former) is (switch is by_drill)
    assert world.state(str(world.agent().instance_id)) in ALIVE


@ONCE
def test_a_former_primary_that_aws_takes_as_well_is_not_promoted(world: World) -> None:
    sef, former, primary = moved(world, by_auto_switch)
    world.signal(sef, TERMINATION, instance_id=former)
    no_capacity(world)
    world.signal(sef, TERMINATION, instance_id=primary)
    settle(world, sef, 3, 10)
    assert world.agent().instance_id == primary
    world.simulation.clear_faults()
    settle(world, sef, 3, 11)
    assert world.agent().instance_id not in (former, primary)


@ONCE
@pytest.mark.parametrize("after", [10, 600])
def test_a_former_primary_that_has_ended_is_not_promoted(world: World, after: float) -> None:
    sef, former, primary = moved(world, by_drill, drain_seconds=3600)
    world.simulation.terminate(former)
    settle(world, sef, 2, after)
    world.signal(sef, TERMINATION, instance_id=primary)
    settle(world, sef, 3, 10)
    assert world.agent().instance_id not in (former, primary)
    world.check(gone={former})


@ONCE
def test_a_standby_in_a_safer_pool_is_better_than_a_recommended_former_primary(
    world: World,
) -> None:
    sef, former, primary = moved(world, by_auto_switch)
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    settle(world, sef, 3, 10)
    assert world.agent().instance_id not in (former, primary)
    assert answer["action"] == "promoted"


@ONCE
def test_a_former_primary_ends_after_the_emergency(world: World) -> None:
    sef, former, primary = moved(world, by_auto_switch)
    world.signal(sef, TERMINATION, instance_id=primary)
    settle(world, sef, 10, 30)
    assert world.state(former) not in ALIVE
    assert world.agent().instance_id not in (former, primary)


@ONCE
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_primary_that_was_put_back_is_retired_once_more(world: World, rounds: int) -> None:
    sef = world.sef(probation_seconds=0)
    first = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    for _ in range(rounds):
        world.simulation.throttle("TerminateInstances", count=4)
        second = sef.execute_manual_switch("a")["new_instance_id"]
        assert world.state(first) in ALIVE
        sef.register_agent("a", {"instance_id": first})
        world.simulation.clear_faults()
        settle(world, sef, 3, 60)
        assert world.state(first) in ALIVE
        assert world.agent().instance_id == first
        world.client.terminate_instances(InstanceIds=[second])
        settle(world, sef, 3, 60)
    third = sef.execute_manual_switch("a")["new_instance_id"]
    settle(world, sef, 10, 60)
    assert world.agent().instance_id == third
    assert world.state(first) not in ALIVE
    assert sef.get_agent_status("a")["former_primaries"] == []


@ONCE
def test_agents_taken_out_of_service_do_not_use_up_the_limit(world: World) -> None:
    sef = world.sef(probation_seconds=0, max_instances=3)
    for name in "bcd":
        announced = world.primary(sef, name)
        new = world.signal(sef, TERMINATION, name, instance_id=announced)["new_instance_id"]
        sef.register_agent(name, {"instance_id": None})
        world.client.terminate_instances(InstanceIds=[new])
    settle(world, sef, 3, 60)
    primary = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=primary)
    settle(world, sef, 3, 10)
    assert world.agent().instance_id != primary


@ONCE
def test_an_instance_that_was_taken_out_of_service_is_in_the_status(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    announced = world.primary(sef)
    new = world.signal(sef, TERMINATION, instance_id=announced)["new_instance_id"]
    world.simulation.terminate(announced)
    sef.register_agent("a", {"instance_id": None})
    settle(world, sef, 10, 3600)
    sef.sweep_orphans()
    assert world.state(new) in ALIVE
    [shown] = sef.get_agent_status("a")["former_primaries"]
    assert (shown["instance_id"], shown["terminated_at"]) == (new, None)
    world.client.terminate_instances(InstanceIds=[new])
    settle(world, sef, 1, 60)
    assert sef.get_agent_status("a")["former_primaries"] == []


@ONCE
@pytest.mark.parametrize("agent_id", ["a", "b"])
def test_a_standby_that_is_being_released_is_named_the_primary(world: World, agent_id: str) -> None:
    sef = world.sef(probation_seconds=0)
    world.primary(sef)
    standby = sef.enable_manual_replica_mode("a")["replica"]["instance_id"]
    world.simulation.throttle("TerminateInstances", count=4)
    sef.disable_manual_replica_mode("a")
    sef.register_agent(agent_id, {"instance_id": standby})
    settle(world, sef, 10, 10)
    assert world.agent(agent_id).instance_id == standby
    assert world.state(standby) in ALIVE


@ONCE
@pytest.mark.parametrize("agent_id", ["a", "b"])
@SWITCHES
def test_a_former_primary_that_drains_is_named_the_primary(
    world: World, agent_id: str, switch: Switch
) -> None:
    sef, former, primary = moved(world, switch)
    sef.register_agent(agent_id, {"instance_id": former, "pool_id": POOL})
    settle(world, sef, 30, 60)
    assert world.state(former) in ALIVE
    assert world.agent(agent_id).instance_id == former
    if agent_id == "b":
        assert world.agent("a").instance_id == primary
        assert sef.get_agent_status("a")["former_primaries"] == []


@ONCE
def test_the_standby_of_another_agent_is_not_named_the_primary(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    world.primary(sef)
    standby = sef.enable_manual_replica_mode("a")["replica"]["instance_id"]
    with pytest.raises(Conflict) as caught:
        sef.register_agent("b", {"instance_id": standby})
    assert caught.value.reason == "instance_is_standby"


@ONCE
@pytest.mark.parametrize("retired", [True, False], ids=["former primary", "standby"])
def test_an_instance_that_sef_may_have_terminated_is_not_named_the_primary(
    world: World, retired: bool
) -> None:
    """The answer to the call was lost: the instance may end at any moment."""
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    standby = sef.enable_manual_replica_mode("a")["replica"]["instance_id"]
    world.simulation.add_fault("TerminateInstances", count=4, error_code="InternalError")
    if retired:
        sef.execute_manual_switch("a")
    else:
        sef.disable_manual_replica_mode("a")
    with pytest.raises(Conflict) as caught:
        sef.register_agent("a", {"instance_id": primary if retired else standby})
    assert caught.value.reason == "instance_is_ending"


@ONCE
def test_many_drills_leave_no_more_than_a_primary_and_a_standby(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    sef.register_agent("a", {"drill_interval": DAY})
    for _ in range(5):
        world.clock.advance(DAY)
        sef.plan_switchovers()
        settle(world, sef, 10, 120)
        assert len(world.alive()) == 1
    assert world.state(primary) not in ALIVE


@ONCE
def test_an_obstacle_is_tried_again_and_reported_once(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    world.simulation.add_fault("CreateTags", error_code="UnauthorizedOperation")
    sef.execute_manual_switch("a")
    settle(world, sef, 20, 61)
    assert world.state(primary) in ALIVE
    assert len(world.events("primary_retired")) == 1
    [shown] = sef.get_agent_status("a")["former_primaries"]
    assert "UnauthorizedOperation" in shown["reason"]
    world.simulation.clear_faults()
    settle(world, sef, 6, 61)
    assert world.state(primary) not in ALIVE


@ONCE
def test_a_return_to_spot_that_fails_ends_on_the_on_demand_instance_again(world: World) -> None:
    sef = world.sef(probation_seconds=0, on_demand_min_seconds=60)
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", market="spot", error_code=FULL)
    on_demand = world.signal(sef, TERMINATION, instance_id=primary)["new_instance_id"]
    world.simulation.clear_faults()
    world.simulation.terminate(primary)
    world.clock.advance(3700)
    assert sef.plan_switchovers() == 1
    settle(world, sef, 2, 5)
    spot = world.agent().instance_id
    assert spot != on_demand
    no_capacity(world)
    world.signal(sef, TERMINATION, instance_id=spot)
    settle(world, sef, 3, 11)
    assert world.agent().instance_id == on_demand
    settle(world, sef, 30, 60)
    assert world.state(on_demand) in ALIVE


@ONCE
def test_a_former_primary_is_kept_while_its_successor_is_stopped(world: World) -> None:
    """The new primary stops: the operator starts it again, and the former one ends only then."""
    sef, former, primary = moved(world, by_drill)
    world.client.stop_instances(InstanceIds=[primary])
    settle(world, sef, 10, 30)
    assert world.state(former) in ALIVE
    world.client.start_instances(InstanceIds=[primary])
    settle(world, sef, 3, 30)
    assert world.state(former) not in ALIVE


@ONCE
@pytest.mark.parametrize("stuck", ["refused", "unhealthy"])
def test_no_drill_begins_while_targets_are_still_moving(world: World, stuck: str) -> None:
    sef, primary, _ = owner(world, "elastic_ip", "target_groups", probation_seconds=0)
    sef.register_agent("a", {"drill_interval": DAY})
    if stuck == "refused":
        world.simulation.add_fault("AssociateAddress", error_code="UnauthorizedOperation")
    else:
        world.simulation.set_options(healthy_after_seconds=100_000)
    for _ in range(4):
        world.clock.advance(DAY)
        sef.plan_switchovers()
        settle(world, sef, 10, 120)
    assert world.agent().epoch == 2
    assert len(world.alive()) + (world.state(primary) in ALIVE) == 2


@ONCE
def test_a_standby_that_is_being_released_is_promoted_rather_than_none(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    standby = sef.enable_manual_replica_mode("a")["replica"]["instance_id"]
    world.simulation.throttle("TerminateInstances", count=4)
    sef.disable_manual_replica_mode("a")
    no_capacity(world)
    world.signal(sef, TERMINATION, instance_id=primary)
    settle(world, sef, 3, 10)
    assert world.agent().instance_id == standby
    settle(world, sef, 5, 60)
    assert world.state(standby) in ALIVE
    world.check()
