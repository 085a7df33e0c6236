"""A termination notice: SEF promotes a standby within the two minutes that AWS gives."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from tests.harness import ON_MARIADB, OTHERS, POOL, REBALANCE, TERMINATION, World

TWO = {"spot_pools": ",".join(OTHERS)}


def drain_pools(world: World, *pools: str) -> None:
    for pool in pools:
        world.simulation.set_pool(pool, capacity=False)


def refuse_on_demand(world: World) -> None:
    world.simulation.add_fault(
        "RunInstances",
        market="on-demand",
        error_code="InsufficientInstanceCapacity",
        http_status=400,
    )


def test_it_promotes_a_ready_standby_before_it_answers(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    first = world.signal(sef, REBALANCE, instance_id=primary)
    standby = world.standby()
    world.clock.advance(300)
    ends = world.clock() + timedelta(seconds=100)
    answer = world.signal(sef, TERMINATION, instance_id=primary, termination_time=ends.isoformat())

    assert answer["action"] == "promoted"
    assert answer["incident_id"] == first["incident_id"]
    assert answer["new_instance_id"] == standby.instance_id
    assert answer["replica_id"] == standby.id
    assert answer["failover_time_ms"] == 0  # by this test's clock
    assert world.agent().instance_id == standby.instance_id
    assert world.agent().pool_id == standby.pool_id
    signals = {s.signal_type: s for s in world.rows("spot_interruption_events")}
    assert signals[TERMINATION].failover_completed
    assert signals[TERMINATION].failover_time_ms == 0
    assert signals[TERMINATION].replica_id == standby.id
    assert signals[TERMINATION].termination_time == ends
    assert not signals[REBALANCE].failover_completed
    assert world.rows("incidents")[0].status == "done"
    assert len(world.tagged()) == 1
    # AWS terminates an instance after its notice.
    assert world.state(primary) == "running"
    world.check()


@ON_MARIADB
def test_the_failover_time_counts_from_the_notice_to_the_promotion(world: World) -> None:
    sef = world.sef(simulator_pending_seconds=60)
    primary = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=primary)
    world.clock.advance(7)
    world.signal(sef, TERMINATION, instance_id=primary)  # it is still launching
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 5.25)
    [signal] = world.rows("spot_interruption_events")
    assert signal.failover_time_ms == 12_250
    assert world.rows("incidents")[0].failover_time_ms == 12_250
    world.check()


def test_it_promotes_a_launching_standby_when_it_runs(world: World) -> None:
    sef = world.sef(simulator_pending_seconds=600)
    primary = world.primary(sef)
    assert world.signal(sef, REBALANCE, instance_id=primary)["action"] == "replica_launching"
    for _ in range(3):
        world.clock.advance(1)
        answer = world.signal(sef, TERMINATION, instance_id=primary)
        assert answer["action"] == "replica_launching"
        assert answer["new_instance_id"] is None
        assert "promoted when ready" in answer["message"]
    world.settle(sef, 2)
    assert world.agent().instance_id == primary
    assert len(world.tagged()) == 1
    world.check()

    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 2)
    assert world.agent().instance_id == world.tagged()[0].id
    assert len(world.tagged()) == 1
    assert len(world.promotions()) == 1
    world.check()


def test_it_launches_in_an_emergency_without_a_standby(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["action"] == "promoted"
    assert answer["risk_score"] is None
    [replica] = world.replicas()
    assert replica.replica_type == "automatic-termination"
    assert replica.market == "spot"
    assert replica.pool_id != POOL
    assert world.agent().instance_id == replica.instance_id == answer["new_instance_id"]
    world.check()


@ON_MARIADB
def test_it_skips_a_pool_without_capacity(world: World) -> None:
    sef = world.sef(**TWO)
    primary = world.primary(sef)
    drain_pools(world, "m5.large.us-east-1c")  # the cheaper
    assert world.signal(sef, TERMINATION, instance_id=primary)["action"] == "promoted"
    assert world.agent().pool_id == "m5.large.us-east-1b"
    assert [a.status for a in world.attempts()] == ["refused", "launched"]
    world.check()


@ON_MARIADB
def test_it_launches_on_demand_without_spot_capacity(world: World) -> None:
    sef = world.sef(**TWO)
    primary = world.primary(sef)
    drain_pools(world, *OTHERS)
    assert world.signal(sef, TERMINATION, instance_id=primary)["action"] == "promoted"
    assert [i.market for i in world.alive()] == ["on-demand"]
    assert world.replicas()[0].market == "on-demand"
    assert len({a.client_token for a in world.attempts()}) == 3
    assert "InstanceMarketOptions" not in world.attempts()[-1].parameters
    world.check()


@ON_MARIADB
def test_it_waits_without_any_capacity_and_launches_when_there_is_some(world: World) -> None:
    sef = world.sef(spot_pools=OTHERS[0])
    primary = world.primary(sef)
    drain_pools(world, OTHERS[0])
    refuse_on_demand(world)
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["action"] == "waiting"
    assert answer["new_instance_id"] is None
    assert world.agent().instance_id == primary
    assert world.tagged() == []
    status = sef.get_agent_status("a")
    assert status["incident"]["goal"] == "switch"

    # SEF does not retry in every pass, but soon.
    replicas = len(world.replicas())
    world.settle(sef, 2)
    assert len(world.replicas()) == replicas
    world.settle(sef, 9)
    assert world.agent().instance_id == primary

    world.simulation.clear_faults()
    world.simulation.set_pool(OTHERS[0], capacity=True)
    for _ in range(35):
        world.settle(sef, 10)
        if world.promotions():
            break
    assert world.agent().instance_id == world.alive()[0].id
    [signal] = world.rows("spot_interruption_events")
    assert signal.failover_completed
    world.check()


@ON_MARIADB
def test_it_finds_capacity_that_returns_within_the_notice(world: World) -> None:
    """A cooldown of five minutes is longer than the notice: an emergency does not wait for it."""
    sef = world.sef(spot_pools=OTHERS[0])
    primary = world.primary(sef)
    drain_pools(world, OTHERS[0])
    refuse_on_demand(world)
    assert world.signal(sef, TERMINATION, instance_id=primary)["action"] == "waiting"
    world.simulation.clear_faults()
    world.simulation.set_pool(OTHERS[0], capacity=True)
    for _ in range(10):
        world.settle(sef, 11)
    assert world.agent().instance_id != primary


def signals(world: World, agent_id: str = "a") -> list[Any]:
    return world.rows("spot_interruption_events", agent_id)


def test_both_signals_from_eight_threads_have_one_effect(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    announced = world.clock()

    def announce(number: int) -> dict[str, Any]:
        kind = (REBALANCE, TERMINATION)[number % 2]
        return world.signal(sef, kind, at=announced, instance_id=primary)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(announce, range(24)))
    world.settle(sef, 3)
    assert len(world.promotions()) == 1
    assert len(world.tagged()) == 1
    assert len(world.rows("incidents")) == 1
    world.check()


@ON_MARIADB
def test_a_notice_that_names_no_instance_can_be_repeated(world: World) -> None:
    """The instance is optional, and an agent may send a notice twice if the answer is lost."""
    sef = world.sef()
    world.primary(sef)
    announced = world.clock()
    first = world.signal(sef, TERMINATION, at=announced)
    for _ in range(3):
        world.clock.advance(5)
        again = world.signal(sef, TERMINATION, at=announced)
        assert again["incident_id"] == first["incident_id"]
    assert len(world.promotions()) == 1
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_a_notice_that_names_neither_instance_nor_time_can_be_repeated(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    for _ in range(4):
        assert sef.handle_termination_notice("a", {})["action"] == "promoted"
        world.clock.advance(5)
    assert len(world.promotions()) == 1
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_it_replaces_the_primary_of_an_agent_without_a_known_instance(world: World) -> None:
    sef = world.sef()
    sef.register_agent("a", {})
    answer = world.signal(sef, TERMINATION)
    assert answer["action"] == "promoted"
    assert world.agent().instance_id == world.alive()[0].id
    world.check()


@ON_MARIADB
def test_it_learns_an_unknown_primary_from_the_notice(world: World) -> None:
    sef = world.sef()
    sef.register_agent("a", {})
    old = world.launch(POOL, KeyName="known-by-notice")
    answer = world.signal(sef, TERMINATION, instance_id=old)
    assert answer["action"] == "promoted"
    new = world.described(answer["new_instance_id"])
    assert new["KeyName"] == "known-by-notice"
    # A repeat is about the old one.
    assert world.signal(sef, TERMINATION, instance_id=old)["incident_id"] == answer["incident_id"]
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_a_notice_for_a_former_primary_is_recorded_and_changes_nothing(world: World) -> None:
    sef = world.sef()
    old = world.primary(sef)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    new = world.signal(sef, REBALANCE, instance_id=old)["new_instance_id"]
    world.clock.advance(60)
    answer = world.signal(sef, TERMINATION, instance_id=old)
    assert answer["new_instance_id"] == new
    assert world.agent().instance_id == new
    assert world.agent().epoch == 2
    assert {s.signal_type for s in signals(world)} == {REBALANCE, TERMINATION}
    assert len(world.events("signal_ignored")) == 1
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_a_notice_for_an_unknown_instance_is_recorded_and_changes_nothing(
    world: World,
) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    for _ in range(3):
        answer = world.signal(sef, TERMINATION, instance_id="i-0123456789abcdef0")
        assert answer["action"] == "ignored"
    assert world.agent().instance_id == primary
    assert world.tagged() == []
    [signal] = signals(world)
    assert (signal.instance_id, signal.times_received) == ("i-0123456789abcdef0", 3)
    assert not signal.failover_completed
    assert len(world.events("signal_ignored")) == 1
    world.check()


@ON_MARIADB
def test_a_notice_before_registration_counts_when_repeated(
    world: World,
) -> None:
    sef = world.sef()
    world.primary(sef)
    announced = world.clock()
    new = world.launch("m5.large.us-east-1b")
    assert world.signal(sef, TERMINATION, at=announced, instance_id=new)["action"] == "ignored"
    sef.register_agent("a", {"instance_id": new, "pool_id": "m5.large.us-east-1b"})
    world.clock.advance(5)
    answer = world.signal(sef, TERMINATION, at=announced, instance_id=new)
    assert answer["action"] == "promoted"
    assert world.agent().instance_id != new


@pytest.mark.parametrize("kind", [REBALANCE, TERMINATION])
@ON_MARIADB
def test_it_replaces_a_standby_that_gets_a_signal(world: World, kind: str) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.signal(sef, REBALANCE, instance_id=primary)
    first = world.standby()
    announced = world.clock()
    answer = world.signal(sef, kind, at=announced, instance_id=first.instance_id)
    assert answer["action"] == "standby_replaced"
    second = world.standby()
    assert second.id == answer["replica_id"] != first.id
    assert world.state(first.instance_id) == "terminated"
    world.check()

    world.signal(sef, kind, at=announced, instance_id=first.instance_id)
    assert world.standby().id == second.id
    world.signal(sef, TERMINATION, instance_id=primary)
    assert world.agent().instance_id == second.instance_id
    assert len(world.tagged()) == 2
    world.check()


@ON_MARIADB
def test_it_avoids_the_pool_of_a_standby_that_got_a_notice(world: World) -> None:
    """Interruptions of one type and zone often come together."""
    sef = world.sef()
    primary = world.primary(sef)
    world.signal(sef, REBALANCE, instance_id=primary)
    first = world.standby()
    world.signal(sef, TERMINATION, instance_id=first.instance_id)
    assert world.standby().pool_id not in (first.pool_id, POOL)


@ON_MARIADB
def test_it_does_not_promote_a_standby_with_a_notice_from_before_its_id_was_known(
    world: World,
) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", count=2, lose_reply=True)
    world.signal(sef, REBALANCE, instance_id=primary)
    [doomed] = world.alive()
    assert world.standby().instance_id is None  # the answer was lost
    announced = world.clock()
    world.signal(sef, TERMINATION, at=announced, instance_id=doomed.id)
    world.clock.advance(7)
    world.signal(sef, TERMINATION, instance_id=primary)
    world.settle(sef, 7)
    assert world.agent().instance_id not in (primary, doomed.id)
    world.check()


@ON_MARIADB
def test_a_third_instance_takes_over_if_primary_and_standby_get_a_notice(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.signal(sef, REBALANCE, instance_id=primary)
    first = world.standby()
    world.simulation.set_options(pending_seconds=60)
    world.signal(sef, TERMINATION, instance_id=first.instance_id)
    world.signal(sef, TERMINATION, instance_id=primary)
    assert world.agent().instance_id == primary
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 3)
    assert world.agent().instance_id not in (primary, first.instance_id)
    world.check()


@ON_MARIADB
def test_it_promotes_in_manual_mode_and_keeps_the_next_standby(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    standby = world.standby()
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["action"] == "promoted"
    assert world.agent().instance_id == standby.instance_id
    following = world.standby()
    assert following.replica_type == "manual"
    assert following.status == "ready"
    assert following.pool_id != world.agent().pool_id
    assert world.state(primary) == "running"
    assert sef.get_agent_status("a")["mode"] == "manual"
    world.check()


@ON_MARIADB
def test_the_deadline_is_the_announced_end_or_two_minutes(world: World) -> None:
    sef = world.sef(simulator_pending_seconds=60)
    for agent_id, announced, seconds in (("a", 95, 95), ("b", None, 120), ("c", -5, 120)):
        primary = world.primary(sef, agent_id)
        ends = (
            {} if announced is None else {"termination_time": world.clock().timestamp() + announced}
        )
        world.signal(sef, TERMINATION, agent_id, instance_id=primary, **ends)
        [incident] = world.rows("incidents", agent_id)
        left = incident.deadline - world.clock()
        assert abs(left - timedelta(seconds=seconds)) < timedelta(milliseconds=1)
        assert sef.get_agent_status(agent_id)["incident"]["deadline"] is not None
        [signal] = signals(world, agent_id)
        assert (signal.termination_time is None) == (announced is None)
    # All three are promoted.
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 3)
    assert {len(world.promotions(agent_id)) for agent_id in "abc"} == {1}


def test_it_records_a_notice_while_ec2_is_unavailable_and_acts_when_it_is_back(
    world: World,
) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.add_fault("*", error_code="ServiceUnavailable")
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["status"] == "success"
    assert answer["action"] == "replica_launching"
    [signal] = signals(world)
    assert not signal.failover_completed
    assert signal.failover_time_ms is None
    assert len(world.events("cloud_unavailable")) == 1
    assert world.tagged() == []
    world.check()

    world.simulation.clear_faults()
    world.settle(sef, 7)
    assert world.agent().instance_id == world.alive()[0].id
    [signal] = signals(world)
    assert signal.failover_completed
    assert signal.failover_time_ms == 7000
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_it_promotes_a_ready_standby_while_ec2_is_unavailable(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.signal(sef, REBALANCE, instance_id=primary)
    world.clock.advance(20)
    world.simulation.add_fault("*", error_code="ServiceUnavailable")
    assert world.signal(sef, TERMINATION, instance_id=primary)["action"] == "promoted"
    assert world.agent().instance_id == world.tagged()[0].id
    world.check()


@ON_MARIADB
def test_it_answers_a_notice_while_ec2_throttles_and_acts_later(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.throttle("RunInstances", count=2)
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["action"] == "replica_launching"
    [attempt] = world.attempts()
    assert attempt.status == "open"
    world.settle(sef, 7)
    assert world.agent().instance_id == world.tagged()[0].id
    [again] = world.attempts()
    assert (again.client_token, again.status) == (attempt.client_token, "launched")
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_repeated_signals_do_not_shorten_the_pause_after_a_throttle(world: World) -> None:
    """An agent repeats its signal every few seconds; a throttled EC2 needs the pause."""
    sef = world.sef()
    primary = world.primary(sef)
    announced = world.clock()
    world.simulation.throttle("RunInstances", count=2)  # one call of ours, as boto3 makes it
    world.signal(sef, REBALANCE, at=announced, instance_id=primary)
    rests_until = world.agent().not_before
    assert rests_until is not None
    world.signal(sef, REBALANCE, at=announced, instance_id=primary)
    assert world.agent().not_before == rests_until
    assert world.tagged() == []


@ON_MARIADB
def test_it_replaces_a_terminated_standby_instead_of_promoting_it(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.signal(sef, REBALANCE, instance_id=primary)
    dead = world.standby().instance_id
    world.simulation.terminate(dead)
    world.clock.advance(10)
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["action"] == "promoted"
    assert answer["new_instance_id"] != dead
    assert world.agent().instance_id == answer["new_instance_id"]
    assert len(world.promotions()) == 1
    world.check()
