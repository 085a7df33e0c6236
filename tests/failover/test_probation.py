"""Probation: SEF keeps a standby for a new primary in a risky pool for some time."""

from datetime import timedelta
from typing import Any

import pytest

from tests.harness import ONCE, OTHERS, REBALANCE, TERMINATION, World

RISKY = OTHERS[0]


def fail_over(world: World, past: tuple[int, int] | None = None, **settings: Any) -> Any:
    """Fail an agent over to the only pool."""
    sef = world.sef(spot_pools=RISKY, **settings)
    if past:
        world.past(*past, pool=RISKY)
    world.primary(sef)
    world.signal(sef, TERMINATION)
    assert world.pool_of(world.agent().instance_id) == RISKY
    return sef


def test_a_new_primary_in_a_risky_pool_has_a_standby_until_its_probation_ends(world: World) -> None:
    sef = fail_over(world, (10, 9), allow_on_demand=True)
    fresh = world.agent().instance_id
    world.settle(sef, 5)
    standby = world.standby()
    assert standby is not None
    assert standby.replica_type == "automatic-rebalance"
    assert standby.status == "ready"
    world.settle(sef, 1700)
    assert world.standby().id == standby.id
    world.settle(sef, 130)
    world.settle(sef, 30)
    assert world.standby() is None
    assert world.agent().instance_id == fresh
    world.check()


@ONCE
def test_it_promotes_the_standby_of_a_primary_on_probation(world: World) -> None:
    sef = fail_over(world, (10, 9), allow_on_demand=True)
    world.settle(sef, 5)
    standby = world.standby().instance_id
    world.signal(sef, TERMINATION, instance_id=world.agent().instance_id)
    assert world.agent().instance_id == standby
    world.check()


@ONCE
@pytest.mark.parametrize("past", [None, (30, 0), (30, 2)])
def test_a_new_primary_in_another_pool_has_no_standby(
    world: World, past: tuple[int, int] | None
) -> None:
    sef = fail_over(world, past)
    world.settle(sef, 5)
    assert world.standby() is None
    assert world.agent().probation_until is None
    world.check()


@ONCE
def test_a_new_primary_has_no_standby_if_probation_is_disabled(world: World) -> None:
    sef = fail_over(world, (10, 9), probation_seconds=0, allow_on_demand=True)
    world.settle(sef, 5)
    assert world.standby() is None


@ONCE
def test_it_avoids_an_interrupted_pool_during_its_cooldown(world: World) -> None:
    sef = world.sef(spot_pools=",".join(OTHERS))
    world.past(1, 1, OTHERS[1], unannounced=True)  # once it is over, the price decides
    world.primary(sef, "a", pool=OTHERS[0])
    world.primary(sef, "b", pool="m5.large.us-east-1a")
    world.signal(sef, TERMINATION, "a")
    world.signal(sef, REBALANCE, "b")
    assert world.standby("b").pool_id == OTHERS[1]
    sef.register_agent("c", {"instance_id": world.launch(), "pool_id": "m5.large.us-east-1a"})
    world.simulation.set_pool(OTHERS[0], price=0.001)
    try:
        world.settle(sef, 3500)
        world.signal(sef, REBALANCE, "c")
        assert world.standby("c").pool_id == OTHERS[1]
        sef.register_agent("d", {"instance_id": world.launch(), "pool_id": "m5.large.us-east-1a"})
        world.settle(sef, 200)
        world.signal(sef, REBALANCE, "d")
        assert world.standby("d").pool_id == OTHERS[0]
    finally:
        world.simulation.set_pool(OTHERS[0], price=0.0404)


@ONCE
def test_the_notices_of_a_storm_do_not_each_write_the_cooldown_of_their_pool(world: World) -> None:
    sef = world.sef(spot_pools=",".join(OTHERS), interrupted_pool_cooldown_seconds=3600)
    agents = ("a", "b", "c")
    for agent_id in agents:
        world.primary(sef, agent_id, pool=OTHERS[0])
    avoided_until = []
    for agent_id, later in zip(agents, (0, 300, 600), strict=True):
        world.clock.advance(later)
        world.signal(sef, TERMINATION, agent_id)
        [avoided] = world.rows("unavailable_pools", None)
        avoided_until.append(avoided.until)
    assert avoided_until[1] == avoided_until[0]  # an extension of less than 10 % is not written
    assert avoided_until[2] == world.clock() + timedelta(seconds=3600)
