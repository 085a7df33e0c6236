"""A worker's clock is an hour wrong: work takes longer, and no effect is doubled or lost."""

from datetime import timedelta

import pytest

from tests.harness import ALIVE, ONCE, OTHERS, REBALANCE, TERMINATION, World

HOUR = 3600
TEN_SECONDS = timedelta(seconds=10)
WRONG_CLOCK = pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["ahead", "behind"])


@ONCE
@WRONG_CLOCK
@pytest.mark.parametrize("first_is_wrong", [True, False])
def test_a_failover_has_one_successor(world: World, ahead: float, first_is_wrong: bool) -> None:
    right, wrong = world.sef(), world.sef(ahead=ahead)
    one, two = (wrong, right) if first_is_wrong else (right, wrong)
    primary = world.primary(right)
    announced = world.clock()
    world.signal(one, REBALANCE, at=announced, instance_id=primary)
    world.signal(two, TERMINATION, at=announced, instance_id=primary)
    for _ in range(5):
        one.reconcile()
        two.reconcile()
        world.clock.advance(5)
    assert world.agent().instance_id != primary
    assert len(world.promotions()) == 1
    assert len(world.tagged()) == 1
    [incident] = world.rows("incidents")
    assert incident.status == "done"
    assert incident.failover_time_ms >= 0
    world.check()


@ONCE
@WRONG_CLOCK
def test_one_worker_completes_the_emergency_launch_of_another(world: World, ahead: float) -> None:
    right, wrong = world.sef(simulator_pending_seconds=600), world.sef(ahead=ahead)
    primary = world.primary(right)
    world.simulation.throttle("RunInstances", count=2)
    world.signal(right, TERMINATION, instance_id=primary)
    for _ in range(20):
        wrong.reconcile()
        world.clock.advance(2)
        right.reconcile()
        right.sweep_orphans()
        wrong.sweep_orphans()
        world.clock.advance(2)
    world.simulation.set_options(pending_seconds=0)
    world.settle(right, 2)
    assert world.agent().instance_id != primary
    assert world.state(world.agent().instance_id) == "running"
    assert len(world.promotions()) == 1
    for _ in range(3):
        world.settle(wrong, 61)
        world.settle(right, 61)
    right.sweep_orphans()
    world.check()


@ONCE
@WRONG_CLOCK
def test_it_changes_nothing_in_a_healthy_fleet(world: World, ahead: float) -> None:
    right, wrong = world.sef(), world.sef(ahead=ahead)
    primary = world.primary(right)
    right.enable_manual_replica_mode("a")
    standby = world.standby().instance_id
    for _ in range(10):
        for sef in (wrong, right):
            sef.reconcile()
            sef.sweep_orphans()
            sef.detect_losses()
            sef.plan_switchovers()
        world.clock.advance(61)
    assert world.standby().instance_id == standby
    assert {world.state(primary), world.state(standby)} <= ALIVE
    assert world.agent().instance_id == primary
    world.check()


@ONCE
def test_a_right_worker_does_not_wait_for_a_pause_of_an_hour(world: World) -> None:
    right, wrong = world.sef(spot_pools=OTHERS[0]), world.sef(spot_pools=OTHERS[0], ahead=HOUR)
    primary = world.primary(right)
    world.simulation.throttle()
    world.signal(wrong, TERMINATION, instance_id=primary)
    world.simulation.clear_faults()
    world.settle(right, 2)
    assert world.agent().instance_id != primary
    world.check()


@ONCE
def test_a_lease_of_a_fast_clock_does_not_last_an_hour_longer(world: World) -> None:
    right, wrong = world.sef(), world.sef(ahead=HOUR)
    assert wrong.holds_lease("sef_reconcile", TEN_SECONDS)
    assert right.holds_lease("sef_reconcile", TEN_SECONDS)


@ONCE
def test_clocks_that_differ_by_seconds_are_trusted(world: World) -> None:
    right, wrong = world.sef(), world.sef(ahead=5)
    assert wrong.holds_lease("sef_reconcile", TEN_SECONDS)
    assert not right.holds_lease("sef_reconcile", TEN_SECONDS)
