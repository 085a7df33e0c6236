"""From the wish for a standby to one instance that runs, whatever goes wrong on the way."""

from datetime import timedelta
from typing import Any

import pytest

from sef.errors import Unavailable
from tests.harness import (
    ALIVE,
    ONCE,
    OTHERS,
    POOL,
    REBALANCE,
    TERMINATION,
    Crash,
    World,
    ec2_of,
    meanwhile,
)

TWO = {"spot_pools": ",".join(OTHERS)}
CHEAPER, DEARER = OTHERS[1], OTHERS[0]


def crash(*_: Any, **__: Any) -> None:
    raise Crash


def test_the_next_pool_is_tried_with_a_token_of_its_own(world: World) -> None:
    sef = world.sef(**TWO)
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


@ONCE
def test_a_pool_without_capacity_is_left_alone_for_the_cooldown(world: World) -> None:
    sef = world.sef(**TWO)
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


@ONCE
@pytest.mark.parametrize(
    "code", ["UnfulfillableCapacity", "SpotMaxPriceTooLow", "InsufficientFreeAddressesInSubnet"]
)
def test_other_ways_to_say_that_there_is_no_room(world: World, code: str) -> None:
    sef = world.sef(**TWO)
    world.primary(sef)
    world.simulation.add_fault("RunInstances", pool=CHEAPER, error_code=code)
    assert world.signal(sef, REBALANCE)["action"] == "standby_ready"
    assert world.standby().pool_id == DEARER
    world.check()


@ONCE
def test_a_used_up_spot_quota_leads_to_on_demand_where_allowed(world: World) -> None:
    sef = world.sef(**TWO, allow_on_demand=True)
    world.primary(sef)
    quota(world)
    assert world.signal(sef, REBALANCE)["action"] == "standby_ready"
    assert [a.market for a in world.attempts()] == ["spot", "on-demand"]
    assert [i.market for i in world.alive()] == ["on-demand"]
    world.check()


def quota(world: World) -> None:
    world.simulation.add_fault(
        "RunInstances", market="spot", error_code="MaxSpotInstanceCountExceeded"
    )


@ONCE
def test_a_used_up_spot_quota_fails_where_on_demand_is_not_allowed(world: World) -> None:
    sef = world.sef(**TWO)
    world.primary(sef)
    quota(world)
    assert world.signal(sef, REBALANCE)["action"] == "waiting"
    assert [a.market for a in world.attempts()] == ["spot"]  # the other pool cannot help
    assert [r.status for r in world.replicas()] == ["failed"]
    # An emergency may always.
    assert world.signal(sef, TERMINATION)["action"] == "promoted"
    assert [i.market for i in world.alive()] == ["on-demand"]
    world.check()


@ONCE
def test_a_throttled_launch_is_repeated_with_the_same_token(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.throttle("RunInstances", count=4)  # boto3 makes two calls of one
    assert world.signal(sef, REBALANCE)["action"] == "replica_launching"
    world.settle(sef, 1)  # too early
    assert len(world.simulation.faults()) == 1
    world.settle(sef, 6)
    assert world.tagged() == []
    world.settle(sef, 7)
    assert world.standby().status == "ready"
    assert [a.attempt for a in world.attempts()] == [1]
    world.check()


def test_a_launch_whose_answer_is_lost_launches_one(world: World) -> None:
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


@ONCE
@pytest.mark.parametrize("code", ["UnauthorizedOperation", "InsufficientInstanceCapacity"])
def test_a_launch_whose_repeat_is_refused_has_launched_all_the_same(
    world: World, code: str
) -> None:
    """The first call was done, and its answer lost: a refusal of the second undoes nothing."""
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


@ONCE
def test_a_lost_answer_of_an_instance_that_is_gone_by_now_does_not_spin(world: World) -> None:
    sef = world.sef(**TWO)
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


@ONCE
def test_what_ec2_forbids_is_not_tried_again_at_once(world: World) -> None:
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


@ONCE
def test_repeats_of_the_signal_do_not_try_what_ec2_forbids_again_and_again(
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


@ONCE
def test_an_instance_that_dies_while_it_launches_is_replaced_in_another_pool(
    world: World,
) -> None:
    sef = world.sef(**TWO, simulator_pending_seconds=60)
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


@ONCE
def test_an_instance_that_never_runs_is_given_up_and_terminated(world: World) -> None:
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


@ONCE
def test_an_instance_that_ec2_does_not_show_yet_is_waited_for(world: World) -> None:
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
def test_a_crash_at_the_launch_leaves_one_instance(world: World, moment: str) -> None:
    """Committed and not called; called, and the answer not written down."""
    broken = world.sef(world.cloud(f"{moment}.ec2.RunInstances", crash))
    world.primary(broken)
    with pytest.raises(Crash):
        world.signal(broken, TERMINATION)
    [attempt] = world.attempts()
    assert attempt.status == "open"
    assert len(world.tagged()) == (1 if moment == "after-call" else 0)

    sef = world.sef()
    world.settle(sef, 1)
    assert [a.status for a in world.attempts()] == ["launched"]
    assert [i.client_token for i in world.tagged()] == [attempt.client_token]
    assert world.agent().instance_id == world.tagged()[0].id
    world.check()


@ONCE
def test_a_crash_before_any_call_is_gone_on_from(world: World) -> None:
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


@ONCE
def test_a_crash_before_a_termination_leaks_nothing(world: World) -> None:
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


@ONCE
def test_rows_as_a_crash_leaves_them_are_gone_on_from_by_hand_made_calls_too(
    world: World,
) -> None:
    """The very call of the row, made by somebody else, is the same launch."""
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
def test_released_while_it_is_unknown_whether_it_launched_nothing_remains(
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
    assert len(world.tagged()) == 1  # the repeat of a launch may launch, to learn the id
    world.check()


@ONCE
@pytest.mark.parametrize(
    "code",
    ["InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded", "UnauthorizedOperation"],
)
def test_released_while_it_is_unknown_and_then_refused_it_is_over(world: World, code: str) -> None:
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


def test_while_ec2_is_down_nothing_changes_and_later_it_works(world: World) -> None:
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
    assert len(world.events("cloud_unavailable")) == 1  # one, however long it takes
    world.simulation.clear_faults()
    world.settle(sef, 7)
    assert world.standby().status == "ready"
    assert len(world.tagged()) == 1
    world.check()


@ONCE
def test_ec2_down_does_not_take_a_ready_standby_for_lost(world: World) -> None:
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


@ONCE
def test_without_prices_a_standby_is_launched_all_the_same(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.add_fault("DescribeSpotPriceHistory", error_code="UnauthorizedOperation")
    assert world.signal(sef, REBALANCE)["action"] == "standby_ready"
    assert world.standby().pool_id != POOL
    world.check()


@ONCE
def test_an_agent_may_not_be_launched_for_by_two_at_the_same_step(world: World) -> None:
    sef, other = world.sef(simulator_pending_seconds=60), world.sef(simulator_pending_seconds=60)
    world.primary(sef)

    with meanwhile("FROM launch_attempts", other.reconcile):
        world.signal(sef, REBALANCE)
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 3)
    assert len(world.tagged()) == 1
    assert world.standby().status == "ready"
    world.check()


@ONCE
def test_the_primary_has_a_new_place_while_its_standby_is_planned(world: World) -> None:
    """What was planned for another primary is not taken for it."""
    sef, other = world.sef(), world.sef()
    world.primary(sef)

    def move() -> None:
        world.primary(other, pool="m5.large.us-east-1d")

    with meanwhile("FROM launch_attempts", move):
        world.signal(sef, REBALANCE)
    world.settle(sef, 31)
    assert world.standby() is None
    assert world.alive() == []
    world.check()


@ONCE
def test_a_database_that_goes_away_after_the_call_leads_to_one_instance(
    world: World,
) -> None:
    sef = world.sef()
    world.primary(sef)

    def gone(*_: Any, **__: Any) -> None:
        raise Unavailable

    broken = world.sef(world.cloud("after-call.ec2.RunInstances", gone))
    with pytest.raises(Unavailable):
        world.signal(broken, REBALANCE)
    assert len(world.tagged()) == 1
    world.settle(sef, 1)
    assert world.standby().instance_id == world.tagged()[0].id
    assert world.standby().ready_at - world.standby().created_at == timedelta(seconds=1)
    assert world.state(world.standby().instance_id) in ALIVE
    assert len(world.tagged()) == 1
    world.check()


@ONCE
def test_a_pool_that_lost_instances_without_a_warning_comes_after_a_calm_one(world: World) -> None:
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


@ONCE
def test_a_recommendation_is_judged_by_recommendations_alone_and_says_who_warned(
    world: World,
) -> None:
    sef = world.sef()
    world.primary(sef)
    world.past(12, 1)
    world.past(5, 5, OTHERS[0], unannounced=True)
    answer = world.signal(sef, REBALANCE)
    assert (answer["action"], answer["risk_score"]) == ("monitor", 0.1875)
    assert "a recommendation preceded 1 of 1 terminations" in answer["message"]
