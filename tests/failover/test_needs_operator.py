"""What SEF cannot mend by itself is said, stays visible, and goes on once it is mended."""

from typing import Any

import pytest

from tests.harness import ONCE, OTHERS, REBALANCE, TERMINATION, World

REFUSED = "UnauthorizedOperation"


def incident(world: World) -> Any:
    [found] = world.rows("incidents")
    return found


@pytest.mark.parametrize("signal", [REBALANCE, TERMINATION])
@pytest.mark.parametrize("action", ["RunInstances", "DescribeInstances"])
def test_what_ec2_forbids_needs_an_operator(world: World, signal: str, action: str) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.add_fault(action, error_code=REFUSED)
    world.signal(sef, signal, instance_id=primary)
    assert incident(world).status == "needs_operator"
    shown = sef.get_agent_status("a")["incident"]
    assert shown["status"] == "needs_operator"
    [event] = world.events("operator_needed")
    assert event.severity == "error"
    assert REFUSED in event.message
    assert event.incident_id == shown["id"]

    for _ in range(10):
        world.settle(sef, 60)
    assert len(world.events("operator_needed")) == 1, "it is said once"

    world.simulation.clear_faults()
    for _ in range(6):
        world.settle(sef, 60)
    assert incident(world).status == ("done" if signal == TERMINATION else "open")
    assert (world.agent().instance_id == primary) == (signal == REBALANCE)
    world.check()


@ONCE
def test_an_instance_that_is_gone_without_a_successor_needs_an_operator(world: World) -> None:
    """Within the notice capacity may come back; after it the service is down."""
    sef = world.sef(spot_pools=OTHERS[0])
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    world.signal(sef, TERMINATION, instance_id=primary)
    for _ in range(11):
        world.settle(sef, 10)
    assert incident(world).status == "open"
    world.settle(sef, 11)
    assert incident(world).status == "needs_operator"
    world.simulation.clear_faults()
    for _ in range(3):
        world.settle(sef, 10)
    assert incident(world).status == "done"
    world.check()


@ONCE
def test_so_does_one_for_which_ec2_never_answers(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.throttle()
    world.signal(sef, TERMINATION, instance_id=primary)
    for _ in range(12):
        world.settle(sef, 9)
    assert incident(world).status == "open"
    world.settle(sef, 30)
    assert incident(world).status == "needs_operator"
    world.simulation.clear_faults()
    world.settle(sef, 10)
    assert incident(world).status == "done"
    world.check()


@ONCE
def test_a_new_signal_is_taken_while_an_operator_is_needed(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code=REFUSED)
    first = world.signal(sef, REBALANCE, instance_id=primary)
    world.clock.advance(5)
    world.simulation.clear_faults()
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["action"] == "promoted"
    assert answer["incident_id"] == first["incident_id"]
    assert incident(world).status == "done"
    world.check()
