"""An answer of EC2 without an instance is no proof that it is gone, whatever the intervals are."""

from typing import Any

import pytest

from sef.errors import SefError
from tests.harness import ALIVE, ONCE, REBALANCE, TERMINATION, World

INTERVALS = [10, 300, 3600]
each_interval = pytest.mark.parametrize("interval", INTERVALS)


def hide(world: World, count: int | None = None) -> None:
    world.simulation.add_fault("DescribeInstances", omit=["item"], count=count)


def protected(world: World, interval: float) -> Any:
    """Return a worker whose agent has a primary and a ready standby, both known for a while."""
    sef = world.sef(
        standby_check_interval_seconds=interval,
        loss_check_interval_seconds=interval,
        probation_seconds=0,
    )
    world.primary(sef)
    sef.enable_manual_replica_mode("a")
    return sef


def pass_time(world: World, sef: Any, seconds: float, step: float = 10) -> None:
    for _ in range(round(seconds / step)):
        world.settle(sef, step)


@ONCE
@each_interval
def test_a_ready_standby_is_kept(world: World, interval: float) -> None:
    sef = protected(world, interval)
    standby = world.standby().instance_id
    world.clock.advance(3700)
    hide(world)
    pass_time(world, sef, 200)
    world.simulation.clear_faults()
    world.settle(sef, 61)
    assert world.standby().instance_id == standby
    assert world.standby().misses == 0
    assert len(world.attempts()) == 1
    world.check()


@ONCE
@each_interval
def test_a_ready_standby_that_stays_missing_is_replaced_within_minutes(
    world: World, interval: float
) -> None:
    sef = protected(world, interval)
    standby = world.standby()
    world.clock.advance(3700)
    hide(world)
    pass_time(world, sef, 400)
    assert {r.id: r.status for r in world.replicas()}[standby.id] == "failed"


@ONCE
@each_interval
def test_a_launching_standby_is_kept(world: World, interval: float) -> None:
    sef = world.sef(standby_check_interval_seconds=interval, probation_seconds=0)
    world.primary(sef)
    world.simulation.set_options(visible_after_seconds=1000)
    world.signal(sef, REBALANCE)
    pass_time(world, sef, 400)
    world.simulation.set_options(visible_after_seconds=0)
    world.settle(sef, 10)
    assert world.standby().status == "ready"
    assert len(world.attempts()) == 1
    world.check()


@ONCE
@each_interval
@pytest.mark.parametrize("lacking", ["item", "instancesSet"])
def test_a_promoted_primary_is_kept(world: World, interval: float, lacking: str) -> None:
    sef = world.sef(loss_check_interval_seconds=interval, probation_seconds=0)
    new = world.signal(sef, TERMINATION, instance_id=world.primary(sef))["new_instance_id"]
    world.settle(sef, 600)
    world.simulation.add_fault("DescribeInstances", omit=[lacking])
    for _ in range(3):
        try:
            assert sef.detect_losses() == 0
        except SefError:
            assert lacking != "item"
        world.settle(sef, 10)
    world.simulation.clear_faults()
    world.clock.advance(interval)
    assert sef.detect_losses() == 0
    world.settle(sef, 31)
    assert (world.agent().instance_id, world.state(new)) == (new, "running")
    assert [i.kind for i in world.rows("incidents")] == ["interruption"]
    world.check()


@ONCE
@each_interval
def test_a_promoted_primary_that_stays_missing_is_replaced_within_minutes(
    world: World, interval: float
) -> None:
    sef = world.sef(loss_check_interval_seconds=interval, probation_seconds=0)
    new = world.signal(sef, TERMINATION, instance_id=world.primary(sef))["new_instance_id"]
    world.settle(sef, 600)
    hide(world)
    sef.detect_losses()
    pass_time(world, sef, 240)
    assert world.agent().instance_id == new
    pass_time(world, sef, 100)
    assert [i.kind for i in world.rows("incidents") if i.subject == new] == ["loss"]


@ONCE
def test_a_missing_primary_that_reports_is_not_asked_about_again(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    new = world.signal(sef, TERMINATION, instance_id=world.primary(sef))["new_instance_id"]
    world.settle(sef, 600)
    hide(world)
    sef.detect_losses()
    report = {"spot_price": 0.04, "pool_id": world.agent().pool_id, "instance_id": new}
    for _ in range(40):
        world.clock.advance(10)
        now = world.clock().isoformat()
        sef.process_incoming_data("a", "pricing", report | {"timestamp": now})
        sef.reconcile()
        sef.detect_losses()
    assert world.agent().instance_id == new
    assert [r.misses for r in world.replicas()] == [0]


@ONCE
@each_interval
def test_a_release_is_repeated_until_ec2_knows_the_instance(world: World, interval: float) -> None:
    sef = world.sef(standby_check_interval_seconds=interval, probation_seconds=0)
    world.primary(sef)
    world.simulation.set_options(visible_after_seconds=1000)
    sef.enable_manual_replica_mode("a")
    sef.disable_manual_replica_mode("a")
    pass_time(world, sef, 200)
    assert [r.status for r in world.replicas()] == ["releasing"]
    world.simulation.set_options(visible_after_seconds=0)
    pass_time(world, sef, 40)
    assert [r.status for r in world.replicas()] == ["terminated"]
    assert world.alive() == []
    world.check()


@ONCE
@each_interval
def test_a_retirement_is_repeated_until_ec2_knows_the_instance(
    world: World, interval: float
) -> None:
    sef = protected(world, interval)
    old = world.agent().instance_id
    world.simulation.add_fault(
        "TerminateInstances", error_code="InvalidInstanceID.NotFound", http_status=400
    )
    sef.execute_manual_switch("a")
    pass_time(world, sef, 200)
    assert world.state(old) in ALIVE
    assert [r.terminated_at for r in world.rows("retirements")] == [None]
    world.simulation.clear_faults()
    pass_time(world, sef, 40)
    assert world.state(old) not in ALIVE


@ONCE
@pytest.mark.parametrize("ahead", [3600, -3600])
@pytest.mark.parametrize("interval", [30, 300, 3600])
def test_a_wrong_clock_does_not_make_one_answer_a_proof(
    world: World, ahead: float, interval: float
) -> None:
    sef = protected(world, interval)
    wrong = world.sef(standby_check_interval_seconds=interval, ahead=ahead)
    standby = world.standby().instance_id
    world.clock.advance(3700)
    hide(world)
    for _ in range(4):
        wrong.reconcile()
        world.settle(sef, 2)
    assert world.standby().instance_id == standby
