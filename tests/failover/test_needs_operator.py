"""Incidents that need an operator: reported once, shown, and continued after the repair."""

from typing import Any

import pytest

from tests.harness import ONCE, OTHERS, REBALANCE, TERMINATION, World

REFUSED = "UnauthorizedOperation"


def only_incident(world: World) -> Any:
    [incident] = world.rows("incidents")
    return incident


@pytest.mark.parametrize("signal", [REBALANCE, TERMINATION])
@pytest.mark.parametrize("action", ["RunInstances", "DescribeInstances"])
def test_an_incident_needs_an_operator_if_ec2_denies_permission(
    world: World, signal: str, action: str
) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.add_fault(action, error_code=REFUSED)
    world.signal(sef, signal, instance_id=primary)
    assert only_incident(world).status == "needs_operator"
    shown = sef.get_agent_status("a")["incident"]
    assert shown["status"] == "needs_operator"
    [event] = world.events("operator_needed")
    assert event.severity == "error"
    assert REFUSED in event.message
    assert event.incident_id == shown["id"]

    for _ in range(10):
        world.settle(sef, 60)
    assert len(world.events("operator_needed")) == 1, "SEF reports it once"

    world.simulation.clear_faults()
    for _ in range(6):
        world.settle(sef, 60)
    assert only_incident(world).status == ("done" if signal == TERMINATION else "open")
    assert (world.agent().instance_id == primary) == (signal == REBALANCE)
    world.check()


@ONCE
def test_an_incident_needs_an_operator_after_its_deadline_without_capacity(world: World) -> None:
    """Capacity may return within the notice. After it the service is down."""
    sef = world.sef(spot_pools=OTHERS[0])
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    world.signal(sef, TERMINATION, instance_id=primary)
    for _ in range(11):
        world.settle(sef, 10)
    assert only_incident(world).status == "open"
    world.settle(sef, 11)
    assert only_incident(world).status == "needs_operator"
    world.simulation.clear_faults()
    for _ in range(3):
        world.settle(sef, 10)
    assert only_incident(world).status == "done"
    world.check()


@ONCE
def test_an_incident_needs_an_operator_after_its_deadline_without_an_answer(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.throttle()
    world.signal(sef, TERMINATION, instance_id=primary)
    for _ in range(12):
        world.settle(sef, 9)
    assert only_incident(world).status == "open"
    world.settle(sef, 30)
    assert only_incident(world).status == "needs_operator"
    world.simulation.clear_faults()
    world.settle(sef, 10)
    assert only_incident(world).status == "done"
    world.check()


@ONCE
def test_it_acts_on_a_new_signal_while_an_operator_is_needed(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code=REFUSED)
    first = world.signal(sef, REBALANCE, instance_id=primary)
    world.clock.advance(5)
    world.simulation.clear_faults()
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["action"] == "promoted"
    assert answer["incident_id"] == first["incident_id"]
    assert only_incident(world).status == "done"
    world.check()
