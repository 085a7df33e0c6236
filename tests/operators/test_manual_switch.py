"""Operators switch to the standby of an agent in manual mode."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sef.errors import CloudUnavailable, Conflict, SefError
from sef.failover.reconcile import reconcile_agent
from smart_emergency_fallback import SmartEmergencyFallback
from tests.harness import ALIVE, ON_MARIADB, REBALANCE, World, meanwhile


def error_of(call: Callable[[], Any]) -> tuple[int, str]:
    with pytest.raises(SefError) as caught:
        call()
    return caught.value.status, caught.value.reason


def rows(world: World) -> list[Any]:
    tables = ("agents", "replica_instances", "retirements", "incidents", "system_events")
    return [world.rows(table) for table in tables]


def test_a_switch_promotes_terminates_the_old_primary_and_launches_the_next(
    world: World,
) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    standby = world.standby()
    answer = sef.execute_manual_switch("a")

    assert answer["old_instance_id"] == primary
    assert answer["new_instance_id"] == standby.instance_id
    assert answer["epoch"] == 2
    agent = world.agent()
    assert (agent.instance_id, agent.pool_id) == (standby.instance_id, standby.pool_id)
    assert world.state(primary) == "terminated"
    following = world.standby()
    assert following.status == "ready"
    assert following.pool_id != agent.pool_id
    assert answer["replica"]["id"] == following.id
    assert len(world.events("switchover_completed")) == 1
    assert len(world.events("primary_retired")) == 1
    world.check()

    # A second switch: a former standby is retired like any primary.
    again = sef.execute_manual_switch("a")
    assert again["old_instance_id"] == standby.instance_id
    assert world.state(standby.instance_id) == "terminated"
    assert {r.id: r.status for r in world.replicas()}[standby.id] == "terminated"
    assert len(world.alive()) == 2
    world.check()


@ON_MARIADB
def test_a_rejected_switch_changes_nothing(world: World) -> None:
    sef = world.sef(simulator_pending_seconds=60)
    primary = world.primary(sef)
    refusals = [error_of(lambda: sef.execute_manual_switch("a"))]
    assert world.replicas() == []
    sef.enable_manual_replica_mode("a")
    before = rows(world)
    refusals.append(error_of(lambda: sef.execute_manual_switch("a")))
    assert rows(world) == before
    assert refusals == [(409, "manual_mode_not_enabled"), (409, "replica_not_ready")]
    assert world.agent().instance_id == primary
    world.check()


@ON_MARIADB
def test_a_switch_without_a_standby_is_rejected(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code="UnauthorizedOperation")
    answer = sef.enable_manual_replica_mode("a")
    assert answer["replica"] is None
    assert "No standby is available yet" in answer["message"]
    before = rows(world)
    assert error_of(lambda: sef.execute_manual_switch("a")) == (409, "no_replica")
    assert rows(world) == before
    assert world.agent().instance_id == primary
    world.check()


@ON_MARIADB
def test_a_switch_to_a_standby_that_has_just_vanished_is_rejected(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    world.simulation.terminate(world.standby().instance_id)
    assert error_of(lambda: sef.execute_manual_switch("a")) == (409, "no_replica")
    assert world.agent().instance_id == primary
    assert world.state(primary) in ALIVE
    world.settle(sef, 1)
    sef.execute_manual_switch("a")
    assert world.state(primary) == "terminated"
    world.check()


@ON_MARIADB
def test_a_switch_is_rejected_while_ec2_does_not_describe_the_standby(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    world.simulation.add_fault("DescribeInstances", error_code="ServiceUnavailable")
    with pytest.raises(CloudUnavailable) as caught:
        sef.execute_manual_switch("a")
    assert (caught.value.status, caught.value.reason) == (503, "cloud_unavailable")
    assert world.agent().instance_id == primary
    world.check()


def test_each_switch_from_eight_threads_has_its_own_epoch(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")

    def switch(_: int) -> dict[str, Any] | None:
        try:
            return sef.execute_manual_switch("a")
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as threads:
        done = [answer for answer in threads.map(switch, range(8)) if answer]
    assert done
    epochs = sorted(answer["epoch"] for answer in done)
    assert epochs == list(range(2, 2 + len(done)))
    assert world.agent().epoch == 1 + len(done)
    olds = {answer["old_instance_id"] for answer in done}
    assert len(olds) == len(done)
    assert primary in olds

    for _ in range(3):
        world.settle(sef, 31)
    assert {world.state(old) for old in olds} == {"terminated"}
    assert len(world.alive()) == 2
    world.check()


@ON_MARIADB
def test_a_switch_during_the_periodic_job_retires_the_old_primary(
    world: World,
) -> None:
    sef, other = world.sef(), world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    world.simulation.throttle(
        "TerminateInstances", count=2
    )  # both attempts of boto3 for one call of SEF
    world.clock.advance(31)

    def switch() -> None:
        other.execute_manual_switch("a")

    # Race: the switch happens between reading the agent and reading its due retirements.
    with meanwhile("retirements.agent_id = ", switch):
        reconcile_agent(sef._context, "a")  # in this thread, since `meanwhile` watches only its own
    for _ in range(3):
        world.settle(sef, 31)
    assert world.state(primary) == "terminated"
    world.check()


@ON_MARIADB
def test_the_old_primary_is_terminated_without_a_next_standby(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    for pool in world.simulation.pools():
        world.simulation.set_pool(pool.pool, capacity=False)
    answer = sef.execute_manual_switch("a")
    assert answer["replica"] is None
    assert world.state(primary) == "terminated"
    former = world.agent().instance_id
    for _ in range(3):
        world.settle(sef, 61)
    assert world.state(former) == "running"
    world.check()


@ON_MARIADB
def test_the_termination_of_the_old_primary_is_retried(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    world.simulation.add_fault("TerminateInstances", error_code="ServiceUnavailable")
    sef.execute_manual_switch("a")
    assert world.state(primary) == "running"
    world.simulation.clear_faults()
    world.settle(sef, 7)
    assert world.state(primary) == "terminated"
    assert len(world.events("primary_retired")) == 1
    world.check()


@ON_MARIADB
def test_a_manual_switch_closes_the_open_incident(world: World) -> None:
    sef: SmartEmergencyFallback = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    world.signal(sef, REBALANCE, instance_id=primary)
    switched = sef.execute_manual_switch("a")
    [incident] = world.rows("incidents")
    assert incident.status == "done"
    answer = world.signal(sef, REBALANCE, at=world.clock(), instance_id=primary)
    assert answer["incident_id"] == incident.id
    assert world.agent().instance_id == switched["new_instance_id"]
    world.check()
