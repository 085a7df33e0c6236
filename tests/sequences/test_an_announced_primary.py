"""A primary of which AWS has announced the end before it was named is replaced in time."""

from typing import Any

import pytest

from tests.harness import ALIVE, ONCE, REBALANCE, TERMINATION, World


def put_back_after_a_notice(world: World, sef: Any, instance_id: str, *, repeats: bool) -> None:
    """Send a notice for an instance, name it as the primary, and let the loop work on."""
    announced = world.clock()
    world.signal(sef, TERMINATION, instance_id=instance_id, at=announced)
    world.clock.advance(20)
    sef.register_agent("a", {"instance_id": instance_id})
    if repeats:
        world.signal(sef, TERMINATION, instance_id=instance_id, at=announced)
    for _ in range(4):
        world.settle(sef, 10)


@ONCE
@pytest.mark.parametrize("repeats", [True, False])
def test_a_primary_that_is_put_back_after_its_notice_is_replaced(
    world: World, repeats: bool
) -> None:
    sef = world.sef(probation_seconds=0)
    first = world.primary(sef)
    put_back_after_a_notice(world, sef, first, repeats=repeats)
    assert world.agent().instance_id != first
    assert world.state(str(world.agent().instance_id)) in ALIVE


def replace(world: World, sef: Any, how: str) -> str:
    """Let another instance replace the primary without a notice; return the former primary."""
    first = str(world.agent().instance_id)
    sef.enable_manual_replica_mode("a")
    world.settle(sef, 10)
    if how == "switch":
        sef.execute_manual_switch("a")
    elif how == "drill":
        sef.register_agent("a", {"drill_interval": 3600})
        world.clock.advance(3601)
        sef.plan_switchovers()
        sef.register_agent("a", {"drill_interval": None})
    else:
        world.client.stop_instances(InstanceIds=[first])
        world.clock.advance(1200)
        sef.detect_losses()
    world.settle(sef)
    if how == "loss":
        world.client.start_instances(InstanceIds=[first])
    assert world.agent().instance_id != first
    return first


@ONCE
@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("how", ["switch", "drill", "loss"])
def test_a_former_primary_that_is_put_back_after_a_notice_is_replaced(
    world: World, how: str, repeats: bool
) -> None:
    """AWS sends the notice while another instance is the primary."""
    sef = world.sef(probation_seconds=0)
    world.primary(sef)
    first = replace(world, sef, how)
    put_back_after_a_notice(world, sef, first, repeats=repeats)
    assert world.agent().instance_id != first
    assert world.state(str(world.agent().instance_id)) in ALIVE


@ONCE
def test_a_lost_primary_that_runs_again_is_promoted_rather_than_none(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    world.primary(sef)
    first = replace(world, sef, "loss")
    sef.disable_manual_replica_mode("a")
    world.settle(sef, 60)
    world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    world.signal(sef, TERMINATION, instance_id=world.agent().instance_id)
    for _ in range(4):
        world.settle(sef, 10)
    assert world.agent().instance_id == first


@ONCE
def test_a_lost_primary_that_runs_again_is_not_promoted_after_a_notice(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    world.primary(sef)
    first = replace(world, sef, "loss")
    world.signal(sef, TERMINATION, instance_id=first)
    world.signal(sef, TERMINATION, instance_id=world.agent().instance_id)
    for _ in range(4):
        world.settle(sef, 10)
    assert world.agent().instance_id != first


@ONCE
def test_an_operator_may_put_back_a_primary_with_a_recommendation(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    first = world.primary(sef)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    world.signal(sef, REBALANCE, instance_id=first)
    world.settle(sef, 5)
    assert world.agent().instance_id != first
    sef.register_agent("a", {"instance_id": first})
    for _ in range(3):
        world.settle(sef, 60)
    assert world.agent().instance_id == first
    assert world.state(first) in ALIVE


@ONCE
def test_an_announced_end_that_is_long_past_opens_nothing(world: World) -> None:
    """AWS took the notice back: the instance has run for an hour since."""
    sef = world.sef(probation_seconds=0)
    first = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=first)
    world.clock.advance(3600)
    sef.register_agent("a", {"instance_id": first})
    world.settle(sef, 10)
    assert world.agent().instance_id == first
    assert sef.get_agent_status("a")["incident"] is None


@ONCE
def test_a_new_agent_takes_over_an_announced_instance(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    first = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=first)
    sef.register_agent("b", {"instance_id": first})
    for _ in range(4):
        world.settle(sef, 10)
    assert world.agent("b").instance_id != first


@pytest.mark.parametrize("how", ["taken out of service", "registered"])
@ONCE
def test_agent_without_an_instance_takes_over_no_notice(world: World, how: str) -> None:
    """The notice of another agent names no instance either, since that agent has not told its own.

    An operator has said that this agent has no instance: SEF must not promote its standby.
    """
    sef = world.sef()
    if how == "taken out of service":
        world.primary(sef)
        sef.enable_manual_replica_mode("a")
    sef.register_agent("b", {})
    world.signal(sef, TERMINATION, "b")
    sef.register_agent("a", {"instance_id": None})
    world.settle(sef, 7)
    assert world.agent().instance_id is None
    assert world.rows("incidents", "a") == []
    assert world.promotions() == []
