"""A standby launch ends with exactly one running instance, after any failure on the way."""

from datetime import timedelta
from typing import Any

import pytest

from sef.errors import Unavailable
from tests.harness import (
    ALIVE,
    ON_MARIADB,
    OTHERS,
    POOL,
    REBALANCE,
    TERMINATION,
    Crash,
    World,
    ec2_of,
    meanwhile,
)

TWO_POOLS = {"spot_pools": ",".join(OTHERS)}
CHEAPER, DEARER = OTHERS[1], OTHERS[0]


def crash(*_: Any, **__: Any) -> None:
    raise Crash


def test_the_next_pool_is_tried_with_a_new_token(world: World) -> None:
    sef = world.sef(**TWO_POOLS)
    world.primary(sef)
    world.simulation.set_pool(CHEAPER, capacity=False)
    assert world.signal(sef, REBALANCE)["action"] == "standby_ready"
    refused, launched = world.attempts()
    assert (refused.pool_id, refused.status) == (CHEAPER, "refused")
    assert refused.error_code == "InsufficientInstanceCapacity"
    assert (launched.pool_id, launched.status) == (DEARER, "launched")
    assert refused.client_token != launched.client_token
    assert refused.replica_id == launched.replica_id
    assert [i.client_token for i in world.tagged()] == [launched.client_token]
    [event] = world.events("launch_refused")
    assert event.severity == "warning"
    world.check()


@ON_MARIADB
def test_a_pool_without_capacity_is_not_tried_during_its_cooldown(world: World) -> None:
    sef = world.sef(**TWO_POOLS)
    for agent_id in "abc":
        world.primary(sef, agent_id)
    world.simulation.set_pool(CHEAPER, capacity=False)
    world.signal(sef, REBALANCE, "a")
    world.simulation.set_pool(CHEAPER, capacity=True)
    world.clock.advance(299)
    world.signal(sef, REBALANCE, "b")
    assert [a.pool_id for a in world.attempts("b")] == [DEARER]
    world.clock.advance(1)
    world.signal(sef, REBALANCE, "c")
    assert [a.pool_id for a in world.attempts("c")] == [CHEAPER]
    for agent_id in "abc":
        world.check(agent_id)


@ON_MARIADB
@pytest.mark.parametrize(
    "code", ["UnfulfillableCapacity", "SpotMaxPriceTooLow", "InsufficientFreeAddressesInSubnet"]
)
def test_other_capacity_errors_lead_to_the_next_pool(world: World, code: str) -> None:
    sef = world.sef(**TWO_POOLS)
    world.primary(sef)
    world.simulation.add_fault("RunInstances", pool=CHEAPER, error_code=code)
    assert world.signal(sef, REBALANCE)["action"] == "standby_ready"
    assert world.standby().pool_id == DEARER
    world.check()


@ON_MARIADB
def test_an_exhausted_spot_quota_leads_to_on_demand_if_allowed(world: World) -> None:
    sef = world.sef(**TWO_POOLS, allow_on_demand=True)
    world.primary(sef)
    exhaust_spot_quota(world)
    assert world.signal(sef, REBALANCE)["action"] == "standby_ready"
    assert [a.market for a in world.attempts()] == ["spot", "on-demand"]
    assert [i.market for i in world.alive()] == ["on-demand"]
    world.check()


def exhaust_spot_quota(world: World) -> None:
    world.simulation.add_fault(
        "RunInstances", market="spot", error_code="MaxSpotInstanceCountExceeded"
    )


@ON_MARIADB
def test_an_exhausted_spot_quota_fails_if_on_demand_is_not_allowed(world: World) -> None:
    sef = world.sef(**TWO_POOLS)
    world.primary(sef)
    exhaust_spot_quota(world)
    assert world.signal(sef, REBALANCE)["action"] == "waiting"
    assert [a.market for a in world.attempts()] == ["spot"]  # the other pool cannot help
    assert [r.status for r in world.replicas()] == ["failed"]
    # An emergency may always use on-demand.
    assert world.signal(sef, TERMINATION)["action"] == "promoted"
    assert [i.market for i in world.alive()] == ["on-demand"]
    world.check()


@ON_MARIADB
def test_a_throttled_launch_is_repeated_with_the_same_token(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.throttle("RunInstances", count=4)  # boto3 repeats each call once
    assert world.signal(sef, REBALANCE)["action"] == "replica_launching"
    world.settle(sef, 1)  # too early
    assert len(world.simulation.faults()) == 1
    world.settle(sef, 6)
    assert world.tagged() == []
    world.settle(sef, 7)
    assert world.standby().status == "ready"
    assert [a.attempt for a in world.attempts()] == [1]
    world.check()


def test_a_launch_with_a_lost_answer_launches_one_instance(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.add_fault("RunInstances", count=2, lose_reply=True)
    assert world.signal(sef, REBALANCE)["action"] == "replica_launching"
    assert len(world.tagged()) == 1
    assert world.attempts()[0].status == "open"
    world.settle(sef, 7)
    assert world.standby().status == "ready"
    assert world.standby().instance_id == world.tagged()[0].id
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
@pytest.mark.parametrize("code", ["UnauthorizedOperation", "InsufficientInstanceCapacity"])
def test_a_launch_with_a_lost_answer_and_a_refused_repeat_is_adopted(
    world: World, code: str
) -> None:
    """EC2 did the first call and its answer was lost, so the refused repeat changes nothing."""
    sef = world.sef()
    world.primary(sef)
    world.simulation.add_fault("RunInstances", count=2, lose_reply=True)
    world.signal(sef, REBALANCE)
    world.simulation.add_fault("RunInstances", error_code=code)
    world.settle(sef, 7)
    assert world.standby().status == "ready"
    assert [i.id for i in world.tagged()] == [world.standby().instance_id]
    assert [a.status for a in world.attempts()] == ["launched"]
    world.check()


@ON_MARIADB
def test_a_launch_with_a_lost_answer_and_an_ended_instance_moves_to_the_next_pool(
    world: World,
) -> None:
    sef = world.sef(**TWO_POOLS)
    world.primary(sef)
    world.simulation.add_fault("RunInstances", count=2, lose_reply=True)
    world.signal(sef, REBALANCE)
    world.simulation.terminate(world.tagged()[0].id)
    world.settle(sef, 7)  # the token is spent
    for _ in range(2):
        world.settle(sef, 11)
    assert world.standby().status == "ready"
    assert world.standby().pool_id == DEARER
    assert len(world.tagged()) == 2
    world.check()


@ON_MARIADB
def test_a_forbidden_launch_is_retried_after_five_minutes(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code="UnauthorizedOperation")
    answer = world.signal(sef, REBALANCE)
    assert answer["action"] == "waiting"
    assert [a.error_code for a in world.attempts()] == ["UnauthorizedOperation"]
    assert [r.status for r in world.replicas()] == ["failed"]
    assert [e.severity for e in world.events("launch_refused")] == ["error"]
    assert [e.severity for e in world.events("replica_failed")] == ["error"]
    for _ in range(4):
        world.settle(sef, 60)
    assert len(world.attempts()) == 1
    world.simulation.clear_faults()
    world.settle(sef, 60)
    assert world.standby().status == "ready"
    assert len(world.replicas()) == 2
    world.check()


@ON_MARIADB
def test_a_repeated_signal_does_not_retry_a_forbidden_launch(
    world: World,
) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code="UnauthorizedOperation")
    announced = world.clock()
    for _ in range(5):
        world.signal(sef, REBALANCE, at=announced, instance_id=primary)
        world.clock.advance(5)
    assert len(world.attempts()) == 1


@ON_MARIADB
def test_an_instance_that_ends_while_launching_is_replaced_in_another_pool(
    world: World,
) -> None:
    sef = world.sef(**TWO_POOLS, simulator_pending_seconds=60)
    world.primary(sef)
    world.signal(sef, TERMINATION)
    first = world.standby()
    world.simulation.terminate(first.instance_id)
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 3)
    world.settle(sef, 11)
    assert {r.id: r.status for r in world.replicas()}[first.id] == "failed"
    assert world.agent().pool_id not in (first.pool_id, POOL)
    assert len(world.alive()) == 1
    world.check()


@ON_MARIADB
def test_an_instance_that_does_not_run_in_time_is_terminated_and_replaced(world: World) -> None:
    sef = world.sef(simulator_pending_seconds=100_000)
    world.primary(sef)
    world.signal(sef, REBALANCE)
    stuck = world.standby()
    world.settle(sef, 599)
    assert world.standby().id == stuck.id
    world.settle(sef, 1)
    assert world.state(stuck.instance_id) == "terminated"
    assert {r.id: r.status for r in world.replicas()}[stuck.id] == "terminated"
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 1)
    assert world.standby().status == "ready"
    assert world.standby().pool_id != stuck.pool_id
    assert len(world.alive()) == 1
    world.check()


@ON_MARIADB
def test_a_launching_instance_that_is_missing_at_first_becomes_ready(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.set_options(visible_after_seconds=1000)
    assert world.signal(sef, REBALANCE)["action"] == "replica_launching"
    world.settle(sef, 59)
    assert len(world.tagged()) == 1
    assert world.standby().status == "launching"
    world.simulation.set_options(visible_after_seconds=0)
    world.settle(sef, 0.5)
    assert world.standby().status == "ready"
    world.check()


@pytest.mark.parametrize("moment", ["before-call", "after-call"])
def test_a_crash_at_the_call_leaves_one_instance(world: World, moment: str) -> None:
    """The worker has committed the attempt, and crashes before the call or before its answer."""
    broken = world.sef(world.cloud(f"{moment}.ec2.RunInstances", crash))
    world.primary(broken)
    with pytest.raises(Crash):
        world.signal(broken, TERMINATION)
    [attempt] = world.attempts()
    assert attempt.status == "open"
    assert len(world.tagged()) == (1 if moment == "after-call" else 0)

    sef = world.sef()
    world.settle(sef, 3)
    assert [a.status for a in world.attempts()] == ["launched"]
    assert [i.client_token for i in world.tagged()] == [attempt.client_token]
    assert world.agent().instance_id == world.tagged()[0].id
    world.check()


@ON_MARIADB
def test_a_second_worker_leaves_a_call_that_ec2_has_not_answered_yet(world: World) -> None:
    """A repetition of the call would launch nothing more, but use up a request token."""
    calls: list[str] = []

    def call(params: Any, **_: Any) -> None:
        calls.append(params["body"]["ClientToken"])
        if len(calls) == 1:
            second.reconcile()

    second = world.sef(world.cloud("before-call.ec2.RunInstances", call))
    first = world.sef(world.cloud("before-call.ec2.RunInstances", call))
    world.primary(first)
    assert world.signal(first, TERMINATION)["action"] == "promoted"
    [attempt] = world.attempts()
    assert calls == [attempt.client_token]
    assert attempt.calls == 1
    world.check()


@ON_MARIADB
def test_a_launch_continues_after_a_crash_before_its_attempt(world: World) -> None:
    broken = world.sef(world.cloud("before-call.ec2.DescribeSpotPriceHistory", crash))
    world.primary(broken)
    with pytest.raises(Crash):
        world.signal(broken, REBALANCE)
    assert world.standby().status == "launching"
    assert world.attempts() == []
    world.settle(world.sef(), 1)
    assert world.standby().status == "ready"
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_a_termination_continues_after_a_crash(world: World) -> None:
    broken = world.sef(world.cloud("before-call.ec2.TerminateInstances", crash))
    primary = world.primary(broken)
    broken.enable_manual_replica_mode("a")
    with pytest.raises(Crash):
        broken.execute_manual_switch("a")
    assert world.agent().epoch == 2
    assert world.state(primary) == "running"
    world.settle(world.sef(), 1)
    assert world.state(primary) == "terminated"
    world.check()


@ON_MARIADB
def test_a_call_repeated_outside_of_sef_is_the_same_launch(
    world: World,
) -> None:
    """An operator repeats the call of the row with its client token, outside of SEF."""
    sef = world.sef()
    world.primary(sef)
    world.simulation.throttle("RunInstances", count=2)
    world.signal(sef, REBALANCE)
    [attempt] = world.attempts()
    ec2 = ec2_of(world.simulation.endpoint)
    instance_id = ec2.run(attempt.parameters, attempt.client_token)
    world.settle(world.sef(), 7)
    assert world.standby().instance_id == instance_id
    assert len(world.tagged()) == 1
    world.check()


@pytest.mark.parametrize("launched", [True, False], ids=["launched", "not-launched"])
def test_a_replica_released_during_an_unknown_launch_leaves_no_instance(
    world: World, launched: bool
) -> None:
    sef = world.sef()
    world.primary(sef)
    if launched:
        world.simulation.add_fault("RunInstances", count=2, lose_reply=True)
    else:
        world.simulation.throttle("RunInstances", count=2)
    sef.enable_manual_replica_mode("a")
    assert world.attempts()[0].status == "open"
    sef.disable_manual_replica_mode("a")
    for _ in range(2):
        world.settle(sef, 7)
    assert [r.status for r in world.replicas()] == ["terminated"]
    assert world.alive() == []
    assert len(world.tagged()) == 1  # the repeated call may launch, so that SEF learns the id
    world.check()


@ON_MARIADB
@pytest.mark.parametrize(
    "code",
    ["InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded", "UnauthorizedOperation"],
)
def test_a_replica_released_during_an_unknown_launch_ends_when_the_repeat_is_refused(
    world: World, code: str
) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.throttle("RunInstances", count=2)
    sef.enable_manual_replica_mode("a")
    assert world.attempts()[0].status == "open"
    world.simulation.add_fault("RunInstances", error_code=code, http_status=400)
    sef.disable_manual_replica_mode("a")
    for _ in range(3):
        world.settle(sef, 7)
    assert [r.status for r in world.replicas()] == ["terminated"]
    assert world.tagged() == []
    world.check()


def test_a_launch_waits_while_ec2_is_down(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.add_fault("*", error_code="InternalError")
    answer = world.signal(sef, REBALANCE)
    assert answer["action"] == "replica_launching"
    for _ in range(2):
        world.settle(sef, 7)
    assert world.standby().status == "launching"
    assert world.attempts() == []
    assert world.agent().instance_id == primary
    assert len(world.events("cloud_unavailable")) == 1  # one event, independent of the duration
    world.simulation.clear_faults()
    world.settle(sef, 7)
    assert world.standby().status == "ready"
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_a_ready_standby_is_not_lost_while_ec2_is_down(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    sef.enable_manual_replica_mode("a")
    standby = world.standby()
    world.simulation.add_fault("*", error_code="ServiceUnavailable")
    for _ in range(2):
        world.settle(sef, 31)
    assert world.standby().id == standby.id
    world.simulation.clear_faults()
    world.settle(sef, 31)
    assert world.standby().id == standby.id
    assert world.standby().checked_at > standby.checked_at
    world.check()


@ON_MARIADB
def test_a_standby_is_launched_without_prices(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.add_fault("DescribeSpotPriceHistory", error_code="UnauthorizedOperation")
    assert world.signal(sef, REBALANCE)["action"] == "standby_ready"
    assert world.standby().pool_id != POOL
    world.check()


@ON_MARIADB
def test_two_workers_at_the_same_step_launch_one_instance(world: World) -> None:
    sef, other = world.sef(simulator_pending_seconds=60), world.sef(simulator_pending_seconds=60)
    world.primary(sef)

    with meanwhile("FROM launch_attempts", other.reconcile):
        world.signal(sef, REBALANCE)
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 3)
    assert len(world.tagged()) == 1
    assert world.standby().status == "ready"
    world.check()


@ON_MARIADB
def test_a_launch_plan_is_dropped_when_the_primary_changes(world: World) -> None:
    """A launch planned for the earlier primary is not used for the new primary."""
    sef, other = world.sef(), world.sef()
    world.primary(sef)

    def register_new_primary() -> None:
        world.primary(other, pool="m5.large.us-east-1d")

    with meanwhile("FROM launch_attempts", register_new_primary):
        world.signal(sef, REBALANCE)
    world.settle(sef, 31)
    assert world.standby() is None
    assert world.alive() == []
    world.check()


@ON_MARIADB
def test_a_database_lost_after_the_call_leaves_one_instance(
    world: World,
) -> None:
    sef = world.sef()
    world.primary(sef)

    def lose_database(*_: Any, **__: Any) -> None:
        raise Unavailable

    broken = world.sef(world.cloud("after-call.ec2.RunInstances", lose_database))
    with pytest.raises(Unavailable):
        world.signal(broken, REBALANCE)
    assert len(world.tagged()) == 1
    world.settle(sef, 3)
    assert world.standby().instance_id == world.tagged()[0].id
    assert world.standby().ready_at - world.standby().created_at == timedelta(seconds=3)
    assert world.state(world.standby().instance_id) in ALIVE
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_a_pool_with_unannounced_losses_ranks_after_a_calm_pool(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    lossy, calm = OTHERS
    world.past(3, 3, lossy, unannounced=True)
    world.past(3, 0, calm)
    assert world.signal(sef, TERMINATION)["action"] == "promoted"
    assert world.agent().pool_id == calm
    [decided] = world.events("launch_decided")
    risks = dict(entry.split(", ")[:2] for entry in decided.details["candidates"])
    assert (risks[f"spot in {calm}"], risks[f"spot in {lossy}"]) == ("risk 0.29", "risk 0.71")


@ON_MARIADB
def test_a_recommendation_is_judged_by_recommendations_alone(
    world: World,
) -> None:
    sef = world.sef()
    world.primary(sef)
    world.past(12, 1)
    world.past(5, 5, OTHERS[0], unannounced=True)
    answer = world.signal(sef, REBALANCE)
    assert (answer["action"], answer["risk_score"]) == ("monitor", 0.1875)
    assert "a recommendation preceded 1 of 1 terminations" in answer["message"]
