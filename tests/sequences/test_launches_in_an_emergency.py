"""A launch that hangs, a spent limit or a recommended standby does not stop a failover."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from sef.cloud.ec2 import Ec2
from sef.cloud.errors import CloudError, Remedy
from sef.db import tables
from sef.errors import SefError
from tests.harness import (
    ALIVE,
    ONCE,
    REBALANCE,
    TERMINATION,
    World,
    clients_of,
)

QUIET = {"probation_seconds": 0}


class Hangs(Ec2):
    """An EC2 in which the first instances stay pending, or are not shown."""

    def __init__(self, client: Any, count: int = 1, *, is_hidden: bool = False) -> None:
        super().__init__(client)
        self.count = count
        self.is_hidden = is_hidden
        self.launched: list[str] = []

    def run_several(self, *arguments: Any) -> list[str]:
        found = super().run_several(*arguments)
        self.launched += [i for i in found if i not in self.launched]
        return found

    def instances(self, instance_ids: Sequence[str]) -> Any:
        found = dict(super().instances(instance_ids))
        for hanging in self.launched[: self.count]:
            if hanging in found and self.is_hidden:
                del found[hanging]
            elif hanging in found:
                found[hanging] = replace(found[hanging], ec2_state="pending")
        return found


def hanging(world: World, count: int = 1, *, is_hidden: bool = False) -> Hangs:
    return Hangs(clients_of(world.simulation.endpoint).ec2, count, is_hidden=is_hidden)


def replaced_after(
    world: World, sef: Any, primary: str, *, within: int, step: float = 2
) -> float | None:
    """Return the time until the agent has another primary; None if it takes longer."""
    for number in range(round(within / step)):
        world.settle(sef, step)
        if world.agent().instance_id != primary:
            return (number + 1) * step
    return None


def no_capacity(world: World) -> None:
    for pool in world.simulation.pools():
        world.simulation.set_pool(pool.pool, capacity=False)


def settled(world: World, sef: Any, rounds: int = 6) -> None:
    """Let the loop finish what is left, and check the invariants."""
    for _ in range(rounds):
        world.settle(sef, 31)
    world.check()


# A launch that hangs


@ONCE
@pytest.mark.parametrize(
    ("count", "within", "step", "is_hidden", "manual"),
    [
        (1, 30, 2, False, False),
        (1, 30, 10, True, True),
        (2, 60, 10, True, False),
        (3, 90, 10, False, True),
        (3, 90, 10, True, False),
    ],
)
def test_another_pool_is_tried_within_seconds(
    world: World, count: int, within: int, step: float, is_hidden: bool, manual: bool
) -> None:
    sef = world.sef(hanging(world, count, is_hidden=is_hidden), **QUIET)
    primary = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=primary)
    if manual:
        sef.enable_manual_replica_mode("a")
    assert replaced_after(world, sef, primary, within=120, step=step) <= within
    pools = [attempt.pool_id for attempt in world.attempts()[: count + 1]]
    markets = [attempt.market for attempt in world.attempts()[: count + 1]]
    assert len(set(zip(pools, markets, strict=True))) == count + 1
    for _ in range(12):
        world.settle(sef, 31)
    assert len(world.alive()) == (2 if manual else 1)
    assert len(world.promotions()) == 1


@ONCE
@pytest.mark.parametrize("seconds", [5, 24])
def test_a_launch_of_ordinary_length_is_alone(world: World, seconds: float) -> None:
    sef = world.sef(simulator_pending_seconds=100_000, **QUIET)
    primary = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=primary)
    world.settle(sef, seconds)
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 0)
    assert world.agent().instance_id != primary
    assert len(world.attempts()) == 1
    settled(world, sef)


@ONCE
@pytest.mark.parametrize("seconds", [30, 48])
def test_the_slow_launch_is_used_if_it_runs_first(world: World, seconds: float) -> None:
    sef = world.sef(simulator_pending_seconds=100_000, **QUIET)
    primary = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=primary)
    first = world.standby().instance_id
    for _ in range(int(seconds)):
        world.settle(sef, 1)
    assert len(world.attempts()) == 2
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 1)
    assert world.agent().instance_id == first
    settled(world, sef)
    assert len(world.alive()) == 1


@ONCE
def test_the_time_of_a_launch_for_a_recommendation_counts(world: World) -> None:
    sef = world.sef(hanging(world), **QUIET)
    primary = world.primary(sef)
    world.signal(sef, REBALANCE, instance_id=primary)
    world.settle(sef, 200)
    assert len(world.attempts()) == 1, "an ordinary launch has the launch timeout"
    world.signal(sef, TERMINATION, instance_id=primary)
    assert replaced_after(world, sef, primary, within=10) is not None


@ONCE
@pytest.mark.parametrize("launched", [True, False], ids=["launched", "not launched"])
def test_a_call_without_an_answer_does_not_hold_up_another_pool(
    world: World, launched: bool
) -> None:
    sef = world.sef(**QUIET)
    primary = world.primary(sef)
    hung: list[str] = []

    def hang(world: World) -> Any:
        def lose(params: dict[str, Any], **_: Any) -> None:
            token = params["body"].get("ClientToken")
            hung.append(token) if not hung else None
            if token == hung[0]:
                raise TimeoutError

        return world.cloud("before-call.ec2.RunInstances", lose)

    if launched:
        world.simulation.add_fault("RunInstances", count=2, lose_reply=True)
        world.signal(sef, TERMINATION, instance_id=primary)
        hung.append(world.attempts()[0].client_token)
    broken = world.sef(ConnectionLost(hang(world)), **QUIET)
    if not launched:
        world.signal(broken, TERMINATION, instance_id=primary)
    assert replaced_after(world, broken, primary, within=120) <= 45
    for _ in range(4):
        world.settle(sef, 31)
    settled(world, sef)
    assert len(world.alive()) == 1


class ConnectionLost(Ec2):
    """An EC2 whose lost connections are errors to wait for."""

    def __init__(self, inner: Ec2) -> None:
        super().__init__(inner._client)

    def run_several(self, *arguments: Any) -> list[str]:
        try:
            return super().run_several(*arguments)
        except TimeoutError as error:
            raise CloudError("ConnectTimeout", "no answer", Remedy.WAIT) from error


@ONCE
def test_launches_that_all_hang_stay_within_the_limit(world: World) -> None:
    sef = world.sef(hanging(world, 1000), max_launches_per_hour=12, **QUIET)
    primary = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=primary)
    for _ in range(110):
        world.settle(sef, 30)
        assert len(world.alive()) <= 2
    assert 6 <= len(world.attempts()) <= 12


@ONCE
def test_a_relief_without_capacity_leaves_the_slow_launch(world: World) -> None:
    sef = world.sef(simulator_pending_seconds=100_000, **QUIET)
    primary = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=primary)
    first = world.standby().instance_id
    no_capacity(world)
    world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    for _ in range(10):
        world.settle(sef, 8)
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 2)
    assert world.agent().instance_id == first
    world.check()


@ONCE
@pytest.mark.parametrize("code", ["UnauthorizedOperation", "InvalidKeyPair.NotFound"])
def test_a_refusal_is_told_at_once_and_tried_again_within_seconds(world: World, code: str) -> None:
    sef = world.sef(**QUIET)
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code=code)
    world.signal(sef, TERMINATION, instance_id=primary)
    assert len(world.events("operator_needed")) == 1
    world.settle(sef, 30)
    world.simulation.clear_faults()
    assert replaced_after(world, sef, primary, within=12) is not None
    assert len(world.events("operator_needed")) == 1


# Limits


@ONCE
@pytest.mark.parametrize(("limit", "ordinary"), [(1, 1), (3, 1), (8, 6)])
def test_a_part_of_the_launches_of_an_hour_is_kept_for_emergencies(
    world: World, limit: int, ordinary: int
) -> None:
    sef = world.sef(max_launches_per_hour=limit, pool_cooldown_seconds=0, **QUIET)
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    for _ in range(ordinary + 2):
        standby = world.standby()
        if standby is not None and standby.instance_id is not None:
            world.signal(sef, TERMINATION, instance_id=standby.instance_id)
        world.settle(sef, 61)
    assert len(world.attempts()) == ordinary
    if limit > 1:
        world.signal(sef, TERMINATION, instance_id=primary)
        assert replaced_after(world, sef, primary, within=12) is not None
        assert len(world.attempts()) == ordinary + 1
        told = [event.message for event in world.events("limit_reached")]
        assert len([message for message in told if "kept for emergencies" in message]) == 1


@ONCE
def test_emergencies_do_not_exceed_the_limit(world: World) -> None:
    sef = world.sef(max_launches_per_hour=4, interrupted_pool_cooldown_seconds=0, **QUIET)
    world.primary(sef)
    for _ in range(6):
        world.signal(sef, TERMINATION, instance_id=world.agent().instance_id)
        world.settle(sef, 30)
    assert len(world.attempts()) == 4


@ONCE
def test_a_part_of_the_instances_of_the_fleet_is_kept_for_emergencies(world: World) -> None:
    sef = world.sef(max_instances=4, **QUIET)
    primary = world.primary(sef)
    for agent_id in "bcd":
        world.primary(sef, agent_id)
        sef.enable_manual_replica_mode(agent_id)
    assert sum(len(world.alive(a)) for a in "bcd") == 2
    world.signal(sef, TERMINATION, instance_id=primary)
    assert world.agent().instance_id != primary


@ONCE
def test_twenty_recommendations_do_not_hold_back_the_answer_to_a_notice(world: World) -> None:
    sef = world.sef(**QUIET)
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    for _ in range(20):
        world.signal(sef, REBALANCE, instance_id=world.standby().instance_id)
        world.settle(sef, 150)
        world.settle(sef, 5)
    assert len(world.attempts()) <= 20
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["action"] == "promoted"
    settled(world, sef)


# A recommendation for the standby


def by_recommendation(world: World, sef: Any) -> str:
    primary = world.primary(sef)
    world.signal(sef, REBALANCE, instance_id=primary)
    return primary


def in_manual_mode(world: World, sef: Any) -> str:
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    return primary


def on_probation(world: World, sef: Any) -> str:
    primary = world.primary(sef)
    world.write(update(tables.agents).values(probation_until=world.clock() + timedelta(hours=1)))
    world.settle(sef, 2)
    return primary


WAYS = pytest.mark.parametrize("begin", [by_recommendation, in_manual_mode, on_probation])


@ONCE
@WAYS
def test_a_recommended_standby_is_promoted_if_there_is_no_other(
    world: World, begin: Callable[[World, Any], str]
) -> None:
    sef = world.sef()
    primary = begin(world, sef)
    standby = world.standby().instance_id
    no_capacity(world)
    world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    assert world.signal(sef, REBALANCE, instance_id=standby)["action"] == "standby_replaced"
    for _ in range(3):
        world.settle(sef, 20)
    assert world.state(standby) == "running"
    world.clock.advance(2)
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["new_instance_id"] == standby
    world.simulation.clear_faults()
    for pool in world.simulation.pools():
        world.simulation.set_pool(pool.pool, capacity=True)
    settled(world, sef, 12)
    assert world.standby().status == "ready", "the new primary has a recommendation itself"


@ONCE
@WAYS
def test_a_recommended_standby_ends_when_another_runs(
    world: World, begin: Callable[[World, Any], str]
) -> None:
    sef = world.sef()
    primary = begin(world, sef)
    first = world.standby()
    world.simulation.set_options(pending_seconds=100_000)
    launched = len(world.attempts())
    announced = world.clock()
    for _ in range(4):
        world.signal(sef, REBALANCE, at=announced, instance_id=first.instance_id)
        world.settle(sef, 60)
        assert world.state(first.instance_id) == "running"
        assert world.standby().id == first.id
        [relief] = sef.get_agent_status("a")["other_replicas"]
        assert relief["status"] == "launching"
        assert relief["reason"] == "a rebalance of the standby was recommended"
        world.check()
    assert len(world.attempts()) == launched + 1
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 2)
    world.settle(sef, 2)
    assert world.state(first.instance_id) not in ALIVE
    assert sef.get_agent_status("a")["other_replicas"] == []
    second = world.standby()
    assert (second.status, second.recommended_at) == ("ready", None)
    world.clock.advance(10)
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["new_instance_id"] == second.instance_id
    settled(world, sef)


@ONCE
@WAYS
def test_a_notice_ends_a_recommended_standby_and_its_relief_goes_on(
    world: World, begin: Callable[[World, Any], str]
) -> None:
    sef = world.sef()
    begin(world, sef)
    first = world.standby()
    world.simulation.set_options(pending_seconds=100_000)
    world.signal(sef, REBALANCE, instance_id=first.instance_id)
    launched = len(world.attempts())
    world.settle(sef, 20)
    world.signal(sef, TERMINATION, instance_id=first.instance_id)
    world.settle(sef, 2)
    assert world.state(first.instance_id) not in ALIVE
    assert world.standby().status == "launching"
    assert len(world.attempts()) == launched
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 2)
    assert world.standby().status == "ready"
    settled(world, sef, 2)


@ONCE
def test_a_notice_for_the_primary_promotes_it_before_its_relief_runs(world: World) -> None:
    sef = world.sef()
    primary = in_manual_mode(world, sef)
    first = world.standby().instance_id
    world.simulation.set_options(pending_seconds=100_000)
    world.signal(sef, REBALANCE, instance_id=first)
    world.clock.advance(5)
    assert world.signal(sef, TERMINATION, instance_id=primary)["new_instance_id"] == first
    assert world.standby().status == "launching"
    world.simulation.set_options(pending_seconds=0)
    settled(world, sef, 3)
    assert len(world.alive()) == 2


@ONCE
@pytest.mark.parametrize("kind", [REBALANCE, TERMINATION])
def test_a_signal_for_a_launching_standby(world: World, kind: str) -> None:
    sef = world.sef(simulator_pending_seconds=100_000)
    world.primary(sef)
    world.signal(sef, REBALANCE)
    first = world.standby()
    world.clock.advance(5)
    world.signal(sef, kind, instance_id=first.instance_id)
    world.settle(sef, 5)
    assert (world.standby().id == first.id) == (kind == REBALANCE)
    world.simulation.set_options(pending_seconds=0)
    settled(world, sef, 4)
    assert world.standby().status == "ready"
    assert world.standby().id != first.id
    assert len(world.alive()) == 1


@ONCE
def test_auto_switch_waits_for_a_standby_without_a_recommendation(world: World) -> None:
    sef = world.sef(simulator_pending_seconds=100_000, **QUIET)
    primary = world.primary(sef)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    world.signal(sef, REBALANCE, instance_id=primary)
    first = world.standby().instance_id
    world.signal(sef, REBALANCE, instance_id=first)
    world.simulation.set_options(pending_seconds=0)
    for _ in range(5):
        world.settle(sef, 10)
    assert world.agent().instance_id not in (primary, first)
    settled(world, sef)


@ONCE
@pytest.mark.parametrize("capacity", [True, False])
def test_a_drill_does_not_promote_a_recommended_standby(world: World, capacity: bool) -> None:
    sef = world.sef(**QUIET)
    primary = in_manual_mode(world, sef)
    first = world.standby().instance_id
    if not capacity:
        world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    sef.register_agent("a", {"drill_interval": 3600})
    world.clock.advance(3600)
    sef.plan_switchovers()
    world.signal(sef, REBALANCE, instance_id=first)
    for _ in range(5):
        world.settle(sef, 61)
    assert world.agent().instance_id != first
    assert (world.agent().instance_id == primary) == (not capacity)
    [drill] = [i for i in world.rows("incidents") if i.kind == "drill"]
    assert drill.status == ("done" if capacity else "released")
    world.check()


@ONCE
def test_a_recommended_standby_expires_like_any_other(world: World) -> None:
    sef = world.sef(standby_ttl_seconds=600)
    world.primary(sef)
    world.signal(sef, REBALANCE)
    world.clock.advance(100)
    world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    world.signal(sef, REBALANCE, instance_id=world.standby().instance_id)
    for _ in range(10):
        world.settle(sef, 61)
    assert world.standby() is None
    assert world.alive() == []
    world.check()


@ONCE
def test_its_failed_relief_is_launched_again_each_minute_at_most(world: World) -> None:
    sef = world.sef(**QUIET)
    in_manual_mode(world, sef)
    world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    for _ in range(30):
        world.signal(sef, REBALANCE, instance_id=world.standby().instance_id)
        world.settle(sef, 10)
    failed = [r for r in world.replicas() if r.status == "failed"]
    assert 1 <= len(failed) <= 6


@ONCE
def test_an_operator_may_promote_a_recommended_standby(world: World) -> None:
    sef = world.sef(**QUIET)
    in_manual_mode(world, sef)
    first = world.standby().instance_id
    world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    world.signal(sef, REBALANCE, instance_id=first)
    assert sef.execute_manual_switch("a")["new_instance_id"] == first


@ONCE
def test_the_relief_cannot_be_registered_as_the_primary(world: World) -> None:
    sef = world.sef(**QUIET)
    in_manual_mode(world, sef)
    world.simulation.set_options(pending_seconds=100_000)
    world.signal(sef, REBALANCE, instance_id=world.standby().instance_id)
    [relief] = [r for r in world.replicas() if r.relief_agent_id]
    with pytest.raises(SefError):
        sef.register_agent("a", {"instance_id": relief.instance_id})
