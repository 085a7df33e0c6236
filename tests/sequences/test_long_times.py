"""Sequences in which weeks or years pass before something is mended, switched or served."""

from typing import Any

import pytest
from flask import Flask

from sef.web.failover import failover_blueprint
from smart_emergency_fallback import SmartEmergencyFallback, integrate_with_backend
from tests.failover.cutover.cutover_targets import owner
from tests.harness import ONCE, POOL, REBALANCE, TERMINATION, World

DAY = 86_400
MONTHS = pytest.mark.parametrize("days", [26, 60, 400])
"""Mark a sequence that waits longer than 2**31 milliseconds, which are 24.9 days."""


def fail_over_and_serve(world: World, sef: SmartEmergencyFallback) -> None:
    """Check that the present primary is replaced after a notice, and that its status is shown."""
    serving = world.agent().instance_id
    world.signal(sef, TERMINATION, instance_id=serving)
    for _ in range(10):
        world.settle(sef, 20)
    assert world.agent().instance_id not in (serving, None)
    assert world.state(world.agent().instance_id) == "running"
    assert sef.get_agent_status("a")["status"] == "success"


@ONCE
@MONTHS
def test_a_switch_under_an_old_recommendation(world: World, days: int) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    world.signal(sef, REBALANCE, instance_id=primary)
    for _ in range(20):
        world.clock.advance(days * DAY / 20)
        world.signal(sef, REBALANCE, instance_id=primary)
    assert sef.execute_manual_switch("a")["new_instance_id"] == world.agent().instance_id != primary
    incidents = [row for row in world.rows("incidents") if row.failover_time_ms is not None]
    [signal] = [row for row in world.rows("spot_interruption_events") if row.failover_completed]
    assert [row.failover_time_ms for row in incidents] == [signal.failover_time_ms]
    assert signal.failover_time_ms == days * DAY * 1000
    [entry] = sef.agent_incidents("a")
    assert sef.get_incident(entry["id"])["status"] == "success"
    world.settle(sef, 60)
    fail_over_and_serve(world, sef)


@ONCE
@MONTHS
def test_an_emergency_whose_launch_is_mended_late(world: World, days: int) -> None:
    sef = world.sef(probation_seconds=0, launch_template="")
    sef.process_incoming_data(
        "a",
        "pricing",
        {"spot_price": 0.04, "pool_id": POOL, "timestamp": world.clock().isoformat()},
    )
    world.signal(sef, TERMINATION)
    for _ in range(26):
        world.settle(sef, days * DAY / 26)
    sef.register_agent("a", {"launch_template": "sef-default"})
    for _ in range(5):
        world.settle(sef, 301)
    assert world.agent().instance_id is not None
    [incident] = world.rows("incidents")
    assert incident.status == "done"
    assert incident.failover_time_ms > days * DAY * 1000
    fail_over_and_serve(world, sef)


@ONCE
@MONTHS
def test_a_target_that_moves_late(world: World, days: int) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", probation_seconds=0)
    world.simulation.add_fault("AssociateAddress", error_code="UnauthorizedOperation")
    new = world.signal(sef, TERMINATION, instance_id=primary)["new_instance_id"]
    for _ in range(3):
        world.settle(sef, 60)
    world.clock.advance(days * DAY)
    world.simulation.clear_faults()
    for _ in range(5):
        world.settle(sef, 120)
    assert "elastic_ip" in belongings.held(new)
    client = client_of(sef)
    body = {"timestamp": world.clock().isoformat(), "signal_type": TERMINATION, "instance_id": new}
    assert client.post("/api/agents/a/interruption", json=body).status_code == 200
    fail_over_and_serve(world, sef)
    assert client.get("/api/agents/a/sef-status").status_code == 200


@ONCE
def test_a_standby_that_was_ready_for_a_year(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    world.primary(sef)
    sef.enable_manual_replica_mode("a")
    world.settle(sef, 400 * DAY)
    sef.detect_losses()
    sef.sweep_orphans()
    sef.plan_switchovers()
    fail_over_and_serve(world, sef)


@ONCE
def test_a_clock_set_back_during_a_failover_gives_no_negative_time(world: World) -> None:
    sef = world.sef(probation_seconds=0, simulator_pending_seconds=600)
    primary = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=primary)
    world.clock.advance(-3600)
    world.simulation.set_options(pending_seconds=0)
    for _ in range(5):
        world.settle(sef, 20)
    assert world.agent().instance_id != primary
    [incident] = world.rows("incidents")
    [signal] = world.rows("spot_interruption_events")
    assert incident.failover_time_ms == signal.failover_time_ms == 0
    story = sef.get_incident(incident.id)
    assert all((entry["latency_ms"] or 0) >= 0 for entry in story["timeline"])


def client_of(sef: SmartEmergencyFallback) -> Any:
    app = Flask(__name__)
    app.register_blueprint(failover_blueprint(sef))
    integrate_with_backend(app, sef)
    return app.test_client()
