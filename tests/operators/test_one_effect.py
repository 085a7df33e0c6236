"""An interruption has one effect, for any channel, number and order of its signals."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.harness import ONCE, REBALANCE, TERMINATION, World

TIMES = 100
ORDERS = {
    "the-notice-alone": [TERMINATION] * TIMES,
    "first-all-recommendations": [REBALANCE] * TIMES + [TERMINATION] * TIMES,
    "first-all-notices": [TERMINATION] * TIMES + [REBALANCE] * TIMES,
    "in-turn": [REBALANCE, TERMINATION] * TIMES,
    "in-turn-reversed": [TERMINATION, REBALANCE] * TIMES,
}


def check(world: World, primary: str, expected: dict[str, int]) -> None:
    assert world.agent().instance_id != primary
    assert len(world.promotions()) == 1
    assert len(world.tagged()) == 1
    [incident] = world.rows("incidents")
    assert (incident.status, incident.subject) == ("done", primary)
    signals = world.rows("spot_interruption_events")
    assert {s.signal_type: s.times_received for s in signals} == expected
    assert world.agent().epoch == 2
    world.check()


@ONCE
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_hundred_repeats_in_any_order_have_one_effect(world: World, order: list[str]) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    announced = world.clock()
    for kind in order:
        world.signal(sef, kind, at=announced, instance_id=primary)
        world.clock.advance(0.1)
    world.settle(sef, 3)
    check(world, primary, {kind: order.count(kind) for kind in set(order)})


def test_channels_with_different_times_and_ids_report_one_incident(world: World) -> None:
    """The metadata service, EventBridge and an agent that knows no instance id."""
    sef = world.sef()
    primary = world.primary(sef)
    announced = world.clock()
    end = (announced + timedelta(seconds=120)).isoformat()

    def metadata_service(kind: str) -> dict[str, Any]:
        return world.signal(sef, kind, at=announced, instance_id=primary, termination_time=end)

    def event_bridge(kind: str) -> dict[str, Any]:
        return world.signal(sef, kind, at=announced + timedelta(seconds=1.4), instance_id=primary)

    def simple_agent(kind: str) -> dict[str, Any]:
        return world.signal(sef, kind, at=announced)

    incidents = set()
    for kind in (REBALANCE, TERMINATION, TERMINATION, REBALANCE):
        for channel in (metadata_service, event_bridge, simple_agent):
            incidents.add(channel(kind)["incident_id"])
            world.clock.advance(1)
    assert len(incidents) == 1
    check(world, primary, {REBALANCE: 6, TERMINATION: 6})


@ONCE
def test_a_notice_39_seconds_before_the_termination_is_enough(world: World) -> None:
    """AWS gives the two minutes on a best-effort basis only."""
    sef = world.sef(simulator_pending_seconds=600)
    primary = world.primary(sef)
    end: datetime = world.clock() + timedelta(seconds=39)
    for _ in range(3):
        world.signal(sef, TERMINATION, instance_id=primary, termination_time=end.isoformat())
    [incident] = world.rows("incidents")
    assert incident.deadline == end
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 20)
    world.simulation.terminate(primary)
    check(world, primary, {TERMINATION: 3})
    [signal] = world.rows("spot_interruption_events")
    assert signal.failover_time_ms < 39_000


@ONCE
def test_a_late_recommendation_concerns_the_former_primary(
    world: World,
) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=primary)
    world.clock.advance(3600)
    world.signal(sef, REBALANCE, instance_id=primary)
    check(world, primary, {TERMINATION: 1, REBALANCE: 1})


@ONCE
def test_a_repeat_after_the_end_is_only_counted(world: World) -> None:
    def fail(**_: Any) -> None:
        raise AssertionError("a repeat must not call EC2")

    sef = world.sef()
    primary = world.primary(sef)
    announced = world.clock()
    for kind in (REBALANCE, TERMINATION):
        world.signal(sef, kind, at=announced, instance_id=primary)
    world.settle(sef, 3)
    tables = ("agents", "incidents", "replica_instances", "system_events")
    before = {table: world.rows(table) for table in tables}
    another = world.sef(world.cloud("before-call.ec2", fail))
    world.clock.advance(600)
    for kind in (TERMINATION, REBALANCE):
        answer = world.signal(another, kind, at=announced, instance_id=primary)
        assert (answer["action"], answer["new_instance_id"]) == (
            "promoted",
            world.agent().instance_id,
        )
    assert {table: world.rows(table) for table in tables} == before
    check(world, primary, {REBALANCE: 2, TERMINATION: 2})
