"""Learning who the primary is, is no change of primary; and not every instance can be learned."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from sef.errors import Conflict
from tests.harness import ALIVE, ONCE, OTHERS, POOL, REBALANCE, TERMINATION, World

FULL = "InsufficientInstanceCapacity"


def report(world: World, sef: Any, agent: str = "a", **more: Any) -> None:
    payload = {"spot_price": 0.04, "pool_id": POOL, "timestamp": world.clock().isoformat()}
    assert sef.process_incoming_data(agent, "pricing", payload | more)["status"] != "rejected"


def by_report(world: World, sef: Any, instance_id: str) -> None:
    report(world, sef, instance_id=instance_id)


def by_batch(world: World, sef: Any, instance_id: str) -> None:
    payload = {"spot_price": 0.04, "pool_id": POOL, "timestamp": world.clock().isoformat()}
    sef.process_batch([{"agent_id": "a", "instance_id": instance_id} | payload])


def by_recommendation(world: World, sef: Any, instance_id: str) -> None:
    world.signal(sef, REBALANCE, instance_id=instance_id)


def by_notice(world: World, sef: Any, instance_id: str) -> None:
    world.signal(sef, TERMINATION, instance_id=instance_id)


def by_put(world: World, sef: Any, instance_id: str) -> None:
    sef.register_agent("a", {"instance_id": instance_id})


def by_put_twice(world: World, sef: Any, instance_id: str) -> None:
    for _ in range(2):
        sef.register_agent("a", {"instance_id": instance_id, "pool_id": POOL})


Learn = Callable[[World, Any, str], None]
DOORS = [by_report, by_batch, by_recommendation, by_notice, by_put, by_put_twice]


@pytest.mark.parametrize("learn", DOORS)
@ONCE
def test_a_notice_goes_on_when_the_instance_becomes_known(world: World, learn: Learn) -> None:
    sef = world.sef(probation_seconds=0)
    dying = world.launch()
    report(world, sef)
    world.simulation.add_fault("RunInstances", error_code=FULL, count=30)
    announced = world.clock()
    incident_id = world.signal(sef, TERMINATION, at=announced)["incident_id"]
    learn(world, sef, dying)
    [incident] = world.rows("incidents")
    assert (incident.id, incident.status) == (incident_id, "open")
    assert (incident.subject, incident.instance_id) == ("epoch-1", dying)
    assert (world.agent().instance_id, world.agent().epoch) == (dying, 1)
    for more in ({}, {"instance_id": dying}):
        again = world.signal(sef, TERMINATION, at=announced, **more)
        assert again["incident_id"] == incident_id
    world.simulation.clear_faults()
    for _ in range(6):
        world.settle(sef, 10)
    new = world.agent().instance_id
    assert new != dying
    assert world.state(new) in ALIVE
    report(world, sef, instance_id=dying)  # a late report of the dying one
    again = world.signal(sef, TERMINATION, at=announced, instance_id=dying)
    assert (again["incident_id"], again["action"]) == (incident_id, "promoted")
    assert world.agent().instance_id == new
    assert len(world.promotions()) == 1


@pytest.mark.parametrize("learn", DOORS)
@ONCE
def test_it_becomes_known_while_the_launch_is_under_way(world: World, learn: Learn) -> None:
    sef = world.sef(probation_seconds=0, simulator_pending_seconds=600)
    dying = world.launch()
    report(world, sef)
    world.signal(sef, TERMINATION)
    standby = world.standby().instance_id
    learn(world, sef, dying)
    world.settle(sef, 5)
    world.simulation.age(standby, 600)
    for _ in range(3):
        world.settle(sef, 5)
    assert world.agent().instance_id == standby
    assert [i.status for i in world.rows("incidents")] == ["done"]


@pytest.mark.parametrize("learn", [by_report, by_batch, by_recommendation, by_put])
@ONCE
def test_a_standby_that_waits_for_it_goes_on_waiting(world: World, learn: Learn) -> None:
    sef = world.sef(probation_seconds=0)
    mine = world.launch()
    report(world, sef)
    world.signal(sef, REBALANCE)
    world.settle(sef, 10)
    standby = world.standby().instance_id
    learn(world, sef, mine)
    for _ in range(3):
        world.settle(sef, 30)
    assert world.standby().instance_id == standby
    [incident] = world.rows("incidents")
    assert (incident.status, incident.instance_id) == ("open", mine)
    world.signal(sef, TERMINATION, instance_id=mine)
    world.settle(sef, 5)
    assert world.agent().instance_id == standby


@ONCE
def test_a_late_notice_that_names_the_replaced_one_is_a_repeat(world: World) -> None:
    """The primary was unknown until its end: only the notice's repeat says who it was."""
    sef = world.sef(probation_seconds=0)
    dying = world.launch()
    report(world, sef)
    announced = world.clock()
    answer = world.signal(sef, TERMINATION, at=announced)
    new = answer["new_instance_id"]
    assert new == world.agent().instance_id
    again = world.signal(sef, TERMINATION, at=announced, instance_id=dying)
    assert (again["incident_id"], again["action"]) == (answer["incident_id"], "promoted")
    report(world, sef, instance_id=dying)
    assert world.agent().instance_id == new
    assert len(world.rows("incidents")) == 1


def the_standby(world: World, sef: Any) -> str:
    return str(sef.enable_manual_replica_mode("a")["replica"]["instance_id"])


def a_standby_that_is_released(world: World, sef: Any) -> str:
    standby = the_standby(world, sef)
    world.simulation.throttle("TerminateInstances")
    sef.disable_manual_replica_mode("a")
    assert [r.status for r in world.replicas()] == ["releasing"]
    return standby


def a_former_primary(world: World, sef: Any) -> str:
    former = world.primary(sef)
    sef.register_agent("a", {"instance_id": None})
    return former


def an_instance_with_an_incident(world: World, sef: Any) -> str:
    world.primary(sef)
    other = world.launch()
    world.signal(sef, REBALANCE, instance_id=other)
    sef.register_agent("a", {"instance_id": None})
    return other


@pytest.mark.parametrize("learn", [by_report, by_batch, by_recommendation, by_notice])
@pytest.mark.parametrize(
    "of",
    [the_standby, a_standby_that_is_released, a_former_primary, an_instance_with_an_incident],
)
@ONCE
def test_neither_a_report_nor_a_signal_makes_it_the_primary(
    world: World, of: Callable[[World, Any], str], learn: Learn
) -> None:
    sef = world.sef(probation_seconds=0)
    report(world, sef)
    instance = of(world, sef)
    learn(world, sef, instance)
    assert world.agent().instance_id != instance
    status = sef.get_agent_status("a")
    replica = status["replica"] or {}
    assert replica.get("instance_id") is None or (
        status["agent"]["instance_id"] != replica["instance_id"]
    )


@ONCE
def test_a_notice_for_the_standby_of_an_unknown_primary_replaces_the_standby(
    world: World,
) -> None:
    sef = world.sef(probation_seconds=0)
    report(world, sef)
    standby = the_standby(world, sef)
    answer = world.signal(sef, TERMINATION, instance_id=standby)
    assert answer["action"] == "standby_replaced"
    world.settle(sef, 60)
    assert world.agent().instance_id is None
    assert world.standby().instance_id != standby


@ONCE
def test_an_operator_cannot_name_it_either(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    standby = the_standby(world, sef)
    with pytest.raises(Conflict) as refused:
        sef.register_agent("a", {"instance_id": standby})
    assert refused.value.reason == "instance_is_standby"
    with pytest.raises(Conflict):
        sef.register_agent("another", {"instance_id": standby})
    assert world.agent().instance_id == primary


@ONCE
def test_an_operator_may_put_a_former_primary_back(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    former = a_former_primary(world, sef)
    sef.register_agent("a", {"instance_id": former})
    assert world.agent().instance_id == former
    world.simulation.terminate(former)
    world.clock.advance(430)
    assert sef.detect_losses() == 1


@ONCE
def test_the_pool_of_another_primary_is_asked_of_ec2(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    world.primary(sef, pool=POOL)
    mine = world.launch(OTHERS[0])
    answer = sef.register_agent("a", {"instance_id": mine})
    assert answer["agent"]["pool_id"] == OTHERS[0]
    world.signal(sef, TERMINATION, instance_id=mine)
    [incident] = world.rows("incidents")
    assert incident.pool_id == OTHERS[0]
    interrupted = [
        r.pool_id for r in world.rows("unavailable_pools", None) if r.error_code == "Interrupted"
    ]
    assert interrupted == [OTHERS[0]]


@ONCE
def test_an_error_of_aws_is_a_warning_and_the_pool_is_unknown(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    world.primary(sef, pool=POOL)
    mine = world.launch(OTHERS[0])
    world.simulation.throttle("DescribeInstances")
    answer = sef.register_agent("a", {"instance_id": mine})
    assert answer["agent"]["pool_id"] is None
    assert any("pool" in warning for warning in answer["warnings"])
    world.simulation.clear_faults()
    answer = sef.register_agent("a", {"instance_id": mine})
    assert answer["agent"]["pool_id"] == OTHERS[0]


@ONCE
def test_a_former_primary_does_not_tell_the_pool_of_the_new_one(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    former = world.primary(sef, pool=POOL)
    mine = world.launch(OTHERS[0])
    world.simulation.throttle("DescribeInstances")
    sef.register_agent("a", {"instance_id": mine})
    report(world, sef, instance_id=former, pool_id=POOL)
    report(world, sef, pool_id=POOL)
    assert world.agent().pool_id is None
    report(world, sef, instance_id=mine, pool_id=OTHERS[0])
    assert world.agent().pool_id == OTHERS[0]


@ONCE
def test_a_taken_out_agent_does_not_keep_the_pool_of_its_instance(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    world.primary(sef, pool=POOL)
    sef.register_agent("a", {"instance_id": None})
    mine = world.launch(OTHERS[0])
    report(world, sef, instance_id=mine, pool_id=OTHERS[0])
    assert (world.agent().instance_id, world.agent().pool_id) == (mine, OTHERS[0])


@ONCE
def test_sef_knows_the_pool_of_an_instance_that_it_launched(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    own = world.primary(sef, pool=POOL)
    launched = world.signal(sef, TERMINATION, instance_id=own)["new_instance_id"]
    pool = world.agent().pool_id
    sef.register_agent("a", {"instance_id": world.launch(POOL)})
    world.simulation.throttle("DescribeInstances")
    sef.register_agent("a", {"instance_id": launched})
    assert world.agent().pool_id == pool == world.pool_of(launched)


@ONCE
def test_the_pool_that_cools_down_decides_where_others_go(world: World) -> None:
    sef = world.sef(probation_seconds=0, spot_pools=f"{POOL},{OTHERS[0]}")
    world.primary(sef, pool=POOL)
    mine = world.launch(OTHERS[0])
    sef.register_agent("a", {"instance_id": mine})
    world.primary(sef, "b", pool=OTHERS[1])
    world.signal(sef, TERMINATION, instance_id=mine)
    world.signal(sef, TERMINATION, "b", instance_id=world.agent("b").instance_id)
    assert world.agent("b").pool_id == POOL


@ONCE
def test_another_primary_is_a_change_and_ends_the_incident(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    report(world, sef)
    world.signal(sef, REBALANCE)
    by_report(world, sef, world.launch())
    sef.register_agent("a", {"instance_id": world.launch()})
    world.settle(sef, 10)
    assert [i.status for i in world.rows("incidents")] == ["done"]
    assert world.agent().epoch == 2


@ONCE
def test_agents_learn_apart(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    for agent in ("a", "b"):
        report(world, sef, agent)
        world.signal(sef, REBALANCE, agent)
    mine = world.launch()
    report(world, sef, "b", instance_id=mine)
    world.settle(sef, 10)
    assert world.agent("a").instance_id is None
    assert [i.instance_id for i in world.rows("incidents", "a")] == [None]
    assert [i.instance_id for i in world.rows("incidents", "b")] == [mine]
    assert all(i.status == "open" for i in world.rows("incidents", None))


@ONCE
def test_a_late_notice_is_about_the_learned_primary(world: World) -> None:
    """It was announced before SEF knew the instance, which was the primary already."""
    sef = world.sef(probation_seconds=0)
    mine = world.launch()
    report(world, sef)
    announced = world.clock()
    world.clock.advance(10)
    by_report(world, sef, mine)
    world.clock.advance(10)
    world.signal(
        sef, TERMINATION, at=announced, termination_time=(announced + timedelta(120)).isoformat()
    )
    world.settle(sef, 5)
    assert world.agent().instance_id != mine
