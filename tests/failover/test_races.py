"""Two workers on one database at the same time: every effect happens once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from sef.errors import Conflict
from tests.harness import ALIVE, ON_MARIADB, OTHERS, REBALANCE, TERMINATION, World

ROUNDS = 6


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls in threads that start at the same moment; return the results."""
    barrier = threading.Barrier(len(calls))

    def begin(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(begin, calls))


def test_two_workers_that_reconcile_launch_and_promote_once(world: World) -> None:
    """Both workers race for every step, from the first row to the promotion."""
    one, two = world.sef(), world.sef()
    for number in range(ROUNDS):
        agent_id = f"agent-{number}"
        primary = world.primary(one, agent_id)
        # EC2 is unavailable at first, so that there is a replica row without an instance.
        world.simulation.add_fault("*", error_code="UnknownOutage", http_status=500)
        world.signal(one, TERMINATION, agent_id, instance_id=primary)
        world.simulation.clear_faults()
        world.clock.advance(7)
        together(one.reconcile, two.reconcile, one.reconcile, two.reconcile)
        world.settle(one, 7)
        assert len(world.tagged(agent_id)) == 1
        assert len(world.replicas(agent_id)) == 1
        assert len(world.promotions(agent_id)) == 1
        assert world.agent(agent_id).epoch == 2
        world.check(agent_id)


@ON_MARIADB
def test_two_workers_that_receive_the_same_signal_launch_once(world: World) -> None:
    one, two = world.sef(), world.sef()
    for number in range(ROUNDS):
        agent_id = f"agent-{number}"
        primary = world.primary(one, agent_id)
        announced = world.clock()

        announcements = [
            partial(world.signal, sef, REBALANCE, agent_id, at=announced, instance_id=primary)
            for sef in (one, two)
        ]
        together(*announcements, one.reconcile, two.reconcile)
        world.settle(two, 1)
        assert len(world.tagged(agent_id)) == 1
        assert len(world.rows("incidents", agent_id)) == 1
        assert world.standby(agent_id).status == "ready"
        world.check(agent_id)


@ON_MARIADB
def test_switches_and_passes_of_two_workers_leave_one_standby(world: World) -> None:
    one, two = world.sef(), world.sef()
    primary = world.primary(one)
    one.enable_manual_replica_mode("a")

    def switch(sef: Any) -> Callable[[], str]:
        def attempt() -> str:
            try:
                return str(sef.execute_manual_switch("a")["old_instance_id"])
            except Conflict:
                return ""

        return attempt

    olds: list[str] = []
    for _ in range(ROUNDS):
        olds += together(switch(one), switch(two), one.reconcile, two.reconcile)[:2]
        world.settle(one, 31)
        world.check()
    olds = [old for old in olds if old]
    assert len(olds) == len(set(olds))
    assert primary in olds
    assert world.agent().epoch == 1 + len(olds)
    assert all(world.state(old) not in ALIVE for old in olds)
    assert len(world.alive()) == 2


@ON_MARIADB
def test_enabling_and_disabling_manual_mode_at_once_leaks_no_instance(world: World) -> None:
    one, two = world.sef(), world.sef()
    world.primary(one)
    for _ in range(ROUNDS):
        together(
            lambda: one.enable_manual_replica_mode("a"),
            lambda: two.disable_manual_replica_mode("a"),
            one.reconcile,
        )
    two.disable_manual_replica_mode("a")
    for _ in range(2):
        world.settle(one, 31)
    assert world.standby() is None
    assert world.alive() == []
    world.check()


@ON_MARIADB
def test_an_agent_that_always_fails_does_not_block_others(world: World) -> None:
    sef = world.sef()
    agents = [f"agent-{number:02}" for number in range(12)]
    world.simulation.add_fault("*", error_code="UnknownOutage", http_status=500, count=2)
    for agent_id in agents:
        sef.register_agent(agent_id, {"launch_template": "sef-default"})
    for agent_id in (agents[0], agents[5]):
        sef.register_agent(agent_id, {"launch_template": "no-such-template"})
    world.simulation.clear_faults()
    world.simulation.throttle("*")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda agent_id: world.signal(sef, TERMINATION, agent_id), agents))
    world.simulation.clear_faults()
    world.clock.advance(7)
    assert sef.reconcile() == len(agents)
    for agent_id in agents:
        poisoned = agent_id in (agents[0], agents[5])
        assert len(world.promotions(agent_id)) == (0 if poisoned else 1)
        world.check(agent_id)
    [failed] = world.events("replica_failed", agents[0])
    assert failed.severity == "error"
    assert "InvalidLaunchTemplateName" in failed.message


def test_a_lease_has_one_holder_and_can_be_taken_when_it_expires(world: World) -> None:
    one, two = world.sef(), world.sef()
    for_ten = timedelta(seconds=10)
    assert one.holds_lease("sef_reconcile", for_ten)
    assert not two.holds_lease("sef_reconcile", for_ten)
    assert two.holds_lease("sef_cleanup", for_ten)
    world.clock.advance(9)
    assert one.holds_lease("sef_reconcile", for_ten)  # prolonged
    world.clock.advance(9.9)
    assert not two.holds_lease("sef_reconcile", for_ten)
    world.clock.advance(0.1)
    assert two.holds_lease("sef_reconcile", for_ten)
    assert not one.holds_lease("sef_reconcile", for_ten)


@ON_MARIADB
def test_one_of_several_workers_gets_a_lease(world: World) -> None:
    workers = [world.sef() for _ in range(4)]
    for number in range(5):
        wanted = [partial(w.holds_lease, f"job-{number}", timedelta(seconds=10)) for w in workers]
        held = together(*wanted)
        assert sum(held) == 1
        world.clock.advance(11)
        wanted = [partial(w.holds_lease, f"job-{number}", timedelta(seconds=10)) for w in workers]
        held = together(*wanted)
        assert sum(held) == 1


@ON_MARIADB
@pytest.mark.parametrize("kinds", [(REBALANCE, TERMINATION), (TERMINATION, TERMINATION)])
def test_the_primary_and_its_standby_get_signals_at_the_same_time(
    world: World, kinds: tuple[str, str]
) -> None:
    one, two = world.sef(), world.sef()
    for number in range(3):
        agent_id = f"agent-{number}"
        primary = world.primary(one, agent_id)
        world.signal(one, REBALANCE, agent_id, instance_id=primary)
        doomed = world.standby(agent_id).instance_id
        world.clock.advance(1)
        together(
            lambda a=agent_id, i=doomed: world.signal(one, kinds[0], a, instance_id=i),
            lambda a=agent_id, i=primary: world.signal(two, kinds[1], a, instance_id=i),
        )
        for _ in range(2):
            world.settle(two, 11)
        agent = world.agent(agent_id)
        assert agent.instance_id != primary
        if agent.instance_id == doomed:
            # It was promoted first, and then got the signal as the primary.
            assert kinds[0] == REBALANCE
            assert world.standby(agent_id) is not None
        world.check(agent_id)


@ON_MARIADB
def test_capacity_that_returns_between_two_workers_leaks_no_instance(world: World) -> None:
    """Worker one is refused and tries the next pool; worker two makes the first call late."""
    dearer, cheaper = OTHERS
    one = world.sef(spot_pools=",".join(OTHERS))
    world.primary(one)
    world.simulation.throttle("RunInstances", count=2)
    world.signal(one, REBALANCE)
    assert [a.status for a in world.attempts()] == ["open"]
    world.clock.advance(7)
    world.simulation.set_pool(cheaper, capacity=False)
    world.simulation.add_fault(
        "RunInstances", pool=dearer, count=2, error_code="RequestLimitExceeded"
    )
    came: list[bool] = []

    def refused_meanwhile(**_: Any) -> None:
        if not came:
            came.append(True)
            one.reconcile()
            assert [a.status for a in world.attempts()] == ["refused", "open"]
            world.simulation.set_pool(cheaper, capacity=True)

    late = world.sef(
        world.cloud("before-call.ec2.RunInstances", refused_meanwhile), spot_pools=",".join(OTHERS)
    )
    late.reconcile()
    for _ in range(3):
        world.settle(one, 61)
        world.settle(one, 61)
        world.settle(one, 360)
        one.sweep_orphans()
    assert world.standby().status == "ready"
    assert [i.id for i in world.alive()] == [world.standby().instance_id]
