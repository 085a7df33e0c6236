"""Planned switchovers: drills, and returns from on-demand to spot."""

import re
from typing import Any

import pytest

from tests.harness import ALIVE, ONCE, OTHERS, POOL, REBALANCE, TERMINATION, World

DAY = 86_400
STAY = 1800


def agent_with_drills(world: World, **settings: Any) -> tuple[Any, str]:
    sef = world.sef(**settings)
    primary = world.primary(sef)
    sef.register_agent("a", {"drill_interval": DAY})
    return sef, primary


def plan_and_reconcile(world: World, sef: Any) -> int:
    begun: int = sef.plan_switchovers()
    sef.reconcile()
    return begun


# Drills


def test_a_drill_switches_the_primary_and_reports_its_duration(world: World) -> None:
    sef, old = agent_with_drills(world)
    world.clock.advance(DAY - 60)
    assert plan_and_reconcile(world, sef) == 0
    world.clock.advance(60)
    assert plan_and_reconcile(world, sef) == 1
    new = world.agent().instance_id
    assert new != old
    [incident] = world.rows("incidents")
    assert (incident.kind, incident.status, incident.new_instance_id) == ("drill", "done", new)
    assert incident.failover_time_ms >= 0
    [event] = world.promotions()
    assert re.search(r" in \d+\.\d{3} s: a planned switchover", event.message)
    assert world.state(old) in ALIVE
    world.settle(sef, 61)
    assert world.state(old) not in ALIVE, "a drill leaves no instance behind"
    assert plan_and_reconcile(world, sef) == 0
    world.check()
    world.clock.advance(DAY)
    assert plan_and_reconcile(world, sef) == 1
    world.check()


@ONCE
def test_it_does_not_drill_an_agent_without_an_interval(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.clock.advance(365 * DAY)
    assert plan_and_reconcile(world, sef) == 0


@ONCE
def test_a_drill_in_manual_mode_promotes_the_standby_and_launches_another(world: World) -> None:
    sef, old = agent_with_drills(world)
    sef.enable_manual_replica_mode("a")
    standby = world.standby().instance_id
    world.clock.advance(DAY)
    assert plan_and_reconcile(world, sef) == 1
    assert world.agent().instance_id == standby
    assert world.standby().status == "ready"
    world.settle(sef, 61)
    assert world.state(old) not in ALIVE
    world.check()


@ONCE
def test_a_drill_without_capacity_is_reported_and_not_repeated_at_once(world: World) -> None:
    sef, old = agent_with_drills(world)
    for pool in world.simulation.pools():
        world.simulation.set_pool(pool.pool, capacity=False)
    world.clock.advance(DAY)
    assert plan_and_reconcile(world, sef) == 1
    world.settle(sef, 120)
    [incident] = world.rows("incidents")
    assert (incident.kind, incident.status) == ("drill", "released")
    [event] = world.events("incident_closed")
    assert event.severity == "error"
    assert world.agent().instance_id == old
    assert plan_and_reconcile(world, sef) == 0
    assert not world.alive()
    world.check()


@ONCE
@pytest.mark.parametrize("announced", [REBALANCE, TERMINATION])
def test_a_signal_supersedes_a_drill(world: World, announced: str) -> None:
    sef, old = agent_with_drills(world, simulator_pending_seconds=600)
    world.clock.advance(DAY)
    assert plan_and_reconcile(world, sef) == 1
    standby = world.standby()
    assert standby.status == "launching"
    world.clock.advance(1)
    world.signal(sef, announced, instance_id=old)
    drill, incident = sorted(world.rows("incidents"), key=lambda i: i.opened_at)
    assert (drill.kind, drill.status) == ("drill", "released")
    assert (incident.kind, incident.status) == ("interruption", "open")
    assert world.standby().id == standby.id, "never a second launch"
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 5)
    is_termination = announced == TERMINATION
    assert (world.agent().instance_id == standby.instance_id) == is_termination
    assert (world.standby() is None) == is_termination
    world.check()


@ONCE
def test_it_does_not_drill_during_an_open_incident(world: World) -> None:
    sef, old = agent_with_drills(world)
    world.clock.advance(DAY - 60)
    world.signal(sef, REBALANCE)
    world.clock.advance(120)
    assert plan_and_reconcile(world, sef) == 0
    assert world.agent().instance_id == old


# On-demand and back


def agent_on_demand(world: World, **settings: Any) -> tuple[Any, str]:
    """Register an agent whose primary SEF had to launch on-demand."""
    sef = world.sef(spot_pools=",".join(OTHERS), interrupted_pool_cooldown_seconds=0, **settings)
    world.primary(sef)
    for pool in OTHERS:
        world.simulation.set_pool(pool, capacity=False)
    world.signal(sef, TERMINATION)
    primary = world.agent().instance_id
    assert world.described(primary).get("InstanceLifecycle") is None
    return sef, primary


def restore_capacity(world: World) -> None:
    for pool in OTHERS:
        world.simulation.set_pool(pool, capacity=True)


def test_it_returns_to_spot_when_there_is_capacity(world: World) -> None:
    sef, expensive = agent_on_demand(world)
    restore_capacity(world)
    world.clock.advance(STAY - 1)
    assert plan_and_reconcile(world, sef) == 0, "it stays a minimum"
    world.clock.advance(2)
    assert plan_and_reconcile(world, sef) == 1
    new = world.agent().instance_id
    assert new != expensive
    assert world.described(new)["InstanceLifecycle"] == "spot"
    world.settle(sef, 61)
    assert world.state(expensive) not in ALIVE
    world.clock.advance(10 * STAY)
    assert plan_and_reconcile(world, sef) == 0
    world.check()


@ONCE
def test_it_stays_on_demand_without_spot_capacity_and_retries_later(world: World) -> None:
    sef, expensive = agent_on_demand(world, allow_on_demand=True)
    world.clock.advance(STAY + 1)
    assert plan_and_reconcile(world, sef) == 1
    world.settle(sef, 120)
    [attempt] = [i for i in world.rows("incidents") if i.kind == "return-to-spot"]
    assert attempt.status == "released"
    assert world.agent().instance_id == expensive
    assert not world.standby(), "on-demand is not replaced by on-demand"
    assert plan_and_reconcile(world, sef) == 0, "not at once again"
    restore_capacity(world)
    world.clock.advance(STAY)
    assert plan_and_reconcile(world, sef) == 1
    assert world.agent().instance_id != expensive
    world.settle(sef, 61)
    world.check()


@ONCE
def test_it_limits_the_returns_to_spot_per_day(world: World) -> None:
    sef, _ = agent_on_demand(world, max_spot_returns_per_day=2)
    for returned in range(3):
        restore_capacity(world)
        world.clock.advance(STAY + 1)
        assert plan_and_reconcile(world, sef) == (returned < 2)
        world.settle(sef, 61)
        if returned == 2:
            break
        for pool in OTHERS:
            world.simulation.set_pool(pool, capacity=False)
        world.clock.advance(600)
        world.signal(sef, TERMINATION, instance_id=world.agent().instance_id)
    world.clock.advance(DAY)
    restore_capacity(world)
    assert plan_and_reconcile(world, sef) == 1


@ONCE
def test_it_does_not_return_to_a_risky_pool(world: World) -> None:
    sef, expensive = agent_on_demand(world)
    for pool in OTHERS:
        world.past(10, 9, pool=pool)
    restore_capacity(world)
    world.clock.advance(STAY + 1)
    assert plan_and_reconcile(world, sef) == 1
    world.settle(sef, 120)
    assert world.agent().instance_id == expensive


@ONCE
def test_it_does_not_return_to_spot_in_manual_mode(world: World) -> None:
    sef, expensive = agent_on_demand(world)
    sef.enable_manual_replica_mode("a")
    restore_capacity(world)
    world.clock.advance(STAY + 1)
    assert plan_and_reconcile(world, sef) == 0
    assert world.agent().instance_id == expensive


@ONCE
def test_it_keeps_a_primary_that_an_operator_launched_on_demand(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef, InstanceMarketOptions={})
    world.clock.advance(DAY)
    assert plan_and_reconcile(world, sef) == 0
    assert world.agent().instance_id == primary
    assert world.pool_of(primary) == POOL
