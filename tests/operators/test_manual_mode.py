"""Operators enable and disable manual mode, which keeps a standby."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sef.errors import ModeConflict
from tests.harness import ALIVE, ON_MARIADB, POOL, REBALANCE, World
from tests.waiting import LIMIT


def test_enabling_answers_with_a_ready_standby(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    answer = sef.enable_manual_replica_mode("a")
    standby = world.standby()
    assert answer["replica"]["status"] == "ready"
    assert answer["replica"]["instance_id"] == standby.instance_id
    assert standby.instance_id in answer["message"]
    assert standby.replica_type == "manual"
    assert standby.pool_id != POOL
    assert sef.get_agent_status("a")["mode"] == "manual"
    assert world.agent().instance_id == primary
    world.check()


@ON_MARIADB
def test_enabling_waits_no_longer_than_its_limit(world: World) -> None:
    sef = world.sef(enable_wait_seconds=0.6, simulator_pending_seconds=600)
    world.primary(sef)
    began = time.monotonic()
    answer = sef.enable_manual_replica_mode("a")
    assert 0.6 <= time.monotonic() - began < LIMIT
    assert answer["replica"]["status"] == "launching"
    assert "still launching" in answer["message"]
    world.check()


@ON_MARIADB
def test_enabling_waits_until_the_standby_runs(world: World) -> None:
    sef = world.sef(enable_wait_seconds=LIMIT, simulator_pending_seconds=1)
    world.primary(sef)
    answer = sef.enable_manual_replica_mode("a")
    assert answer["replica"]["status"] == "ready"
    world.check()


@ON_MARIADB
def test_enabling_twice_keeps_one_standby(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    first = sef.enable_manual_replica_mode("a")
    again = sef.enable_manual_replica_mode("a")
    assert again["replica"]["id"] == first["replica"]["id"]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: sef.enable_manual_replica_mode("a"), range(8)))
    assert len(world.replicas()) == 1
    assert len(world.tagged()) == 1
    assert len(world.events("mode_changed")) == 1
    world.check()


@ON_MARIADB
def test_enabling_from_four_threads_at_once_launches_one_standby(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: sef.enable_manual_replica_mode("a"), range(4)))
    assert len({a["replica"]["id"] for a in answers}) == 1
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_a_vanished_standby_is_detected_and_replaced(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    sef.enable_manual_replica_mode("a")
    first = world.standby()
    world.simulation.terminate(first.instance_id)
    world.settle(sef, 29)
    assert world.standby().id == first.id
    world.settle(sef, 1)
    world.settle(sef, 1)
    assert world.standby().id != first.id
    assert world.standby().status == "ready"
    assert {r.id: r.status for r in world.replicas()}[first.id] == "failed"
    world.check()


@ON_MARIADB
def test_disabling_terminates_the_standby_and_can_be_repeated(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    standby = world.standby()
    for _ in range(3):
        assert sef.disable_manual_replica_mode("a")["status"] == "success"
    assert world.standby() is None
    assert world.state(standby.instance_id) == "terminated"
    assert world.state(primary) in ALIVE
    assert sef.get_agent_status("a")["mode"] == "emergency_only"
    assert len(world.events("mode_changed")) == 2
    assert len(world.events("replica_terminated")) == 1
    world.check()


@ON_MARIADB
def test_disabling_keeps_the_standby_of_an_open_incident(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    standby = world.standby()
    world.signal(sef, REBALANCE, instance_id=primary)
    sef.disable_manual_replica_mode("a")
    assert world.standby().id == standby.id
    assert world.state(standby.instance_id) == "running"
    world.settle(sef, 7201)
    assert world.standby() is None
    world.check()


@ON_MARIADB
def test_manual_and_auto_modes_exclude_each_other(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    for mode in ("auto-switch", "auto-terminate"):
        sef.set_auto_mode("a", mode, enabled=True)
        with pytest.raises(ModeConflict) as caught:
            sef.enable_manual_replica_mode("a")
        assert (caught.value.status, caught.value.reason) == (403, "auto_mode_active")
        assert caught.value.message == "Cannot enable manual mode while auto mode is active"
        assert not world.agent().manual_replica_enabled
        assert world.replicas() == []
        sef.set_auto_mode("a", mode, enabled=False)

    sef.enable_manual_replica_mode("a")
    standby = world.standby()
    for mode in ("auto-switch", "auto-terminate"):
        with pytest.raises(ModeConflict) as caught:
            sef.set_auto_mode("a", mode, enabled=True)
        assert (caught.value.status, caught.value.reason) == (403, "manual_mode_active")
        message = f"Cannot enable {mode} while manual replica mode is active"
        assert caught.value.message == message
        sef.set_auto_mode("a", mode, enabled=False)  # disabling never conflicts
    agent = world.agent()
    assert agent.manual_replica_enabled
    assert (agent.auto_switch_enabled, agent.auto_terminate_enabled) == (False, False)
    assert world.standby().id == standby.id
    world.check()


@ON_MARIADB
def test_one_mode_wins_when_two_threads_enable_both_at_once(world: World) -> None:
    sef = world.sef()
    for number in range(5):
        agent_id = f"agent-{number}"
        world.primary(sef, agent_id)

        def attempt(call: Callable[[], Any]) -> str:
            try:
                call()
            except ModeConflict as conflict:
                return conflict.reason
            return "done"

        calls: list[Callable[[], Any]] = [
            lambda agent_id=agent_id: sef.enable_manual_replica_mode(agent_id),
            lambda agent_id=agent_id: sef.set_auto_mode(agent_id, "auto-switch", enabled=True),
        ]
        with ThreadPoolExecutor(2) as threads:
            results = list(threads.map(attempt, calls))
        assert results in (["done", "manual_mode_active"], ["auto_mode_active", "done"])
        agent = world.agent(agent_id)
        assert agent.manual_replica_enabled != agent.auto_switch_enabled
        world.check(agent_id)


@ON_MARIADB
def test_a_recommendation_in_manual_mode_uses_the_existing_standby(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    standby = world.standby()
    answer = world.signal(sef, REBALANCE, instance_id=primary)
    assert answer["action"] == "standby_ready"
    assert answer["replica_id"] == standby.id
    assert world.agent().instance_id == primary
    world.settle(sef, 7201)
    assert world.standby().id == standby.id
    assert len(world.tagged()) == 1
    world.check()
