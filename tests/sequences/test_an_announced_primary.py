"""A primary of which AWS has announced the end before it was named is replaced in time."""

import pytest

from tests.harness import ALIVE, ONCE, REBALANCE, TERMINATION, World


@ONCE
@pytest.mark.parametrize("repeats", [True, False])
def test_a_primary_that_is_put_back_after_its_notice_is_replaced(
    world: World, repeats: bool
) -> None:
    sef = world.sef(probation_seconds=0)
    first = world.primary(sef)
    announced = world.clock()
    world.signal(sef, TERMINATION, instance_id=first, at=announced)
    world.clock.advance(20)
    sef.register_agent("a", {"instance_id": first})
    if repeats:
        world.signal(sef, TERMINATION, instance_id=first, at=announced)
    for _ in range(4):
        world.settle(sef, 10)
    assert world.agent().instance_id != first
    assert world.state(str(world.agent().instance_id)) in ALIVE


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
