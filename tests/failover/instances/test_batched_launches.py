"""Waiting launches with equal parameters share one batched call; each instance gets one agent."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert

from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, MANAGED_TAG, REPLICA_TAG
from sef.db import tables
from sef.simulator.client import SimulatedInstance
from tests.failover.test_storm import fleet, in_parallel, notices
from tests.harness import ALIVE, ON_MARIADB, OTHERS, REBALANCE, TERMINATION, Crash, World

POOLS = ",".join(OTHERS)
AGENTS = 4

Calls = list[tuple[str, int]]
"""Client token and MaxCount of each RunInstances call."""


def worker(world: World, calls: Calls, on: str = "", do: Any = None, **settings: Any) -> Any:
    """Return a worker that adds its RunInstances calls to `calls`.

    Args:
        on: event of boto3 at which the worker calls `do`.
    """

    def record(params: Any, **_: Any) -> None:
        calls.append((params["body"]["ClientToken"], params["body"]["MaxCount"]))

    cloud = world.cloud("before-call.ec2.RunInstances", record)
    if on:
        cloud._client.meta.events.register(on, do)
    given = {
        "run_instances_burst": 1,
        "run_instances_per_second": 1.0,
        "spot_pools": POOLS,
        "probation_seconds": 0,
    } | settings
    return world.sef(cloud, **given)


def empty_bucket(world: World) -> None:
    row = {"action": "RunInstances", "tokens": 0.0, "refilled_at": world.clock()}
    world.write(insert(tables.request_buckets).values(row))


def waiting_agents(world: World, sef: Any, count: int = AGENTS) -> dict[str, str]:
    """Return agents with a termination notice whose launches wait for a request token.

    The last agent has the closest deadline.
    """
    empty_bucket(world)
    agents = fleet(world, sef, count, alike=True)
    for notice in notices(world, [sef], agents):
        assert notice()["action"] == "replica_launching"
    return agents


def settle(world: World, sef: Any, times: int = 8) -> None:
    for _ in range(times):
        world.settle(sef, 1)


def managed(world: World) -> list[SimulatedInstance]:
    """Return all instances that SEF has ever launched."""
    [deployment] = world.rows("deployment", None)
    return [i for i in world.simulation.instances() if i.tags.get(MANAGED_TAG) == deployment.name]


def launch_tagged(world: World, call_token: str) -> str:
    """Launch an instance with the tags of a batched call, and without those of an agent."""
    [deployment] = world.rows("deployment", None)
    tags = [
        {"Key": MANAGED_TAG, "Value": deployment.name},
        {"Key": ATTEMPT_TAG, "Value": call_token},
    ]
    return world.launch(TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])


def assert_each_has_a_replacement(world: World, agents: dict[str, str]) -> None:
    """Assert that each agent has one replacement with its tags, and that nothing else runs."""
    alive = {i.id: i for i in managed(world) if i.state in ALIVE}
    for agent_id, old in agents.items():
        agent = world.agent(agent_id)
        assert agent.instance_id != old
        assert len(world.promotions(agent_id)) == 1
        instance = alive.pop(agent.instance_id)
        [replica] = world.replicas(agent_id, "promoted")
        attempt = world.attempts(agent_id)[-1]
        ours = {
            AGENT_TAG: agent_id,
            REPLICA_TAG: replica.id,
            ATTEMPT_TAG: attempt.client_token,
        }
        assert ours.items() <= instance.tags.items()
        world.check(agent_id)
    assert not alive
    assert {a.status for a in world.rows("launch_attempts", None)} <= {"launched", "refused"}


def crash(**_: Any) -> None:
    raise Crash


def once(do: Callable[[], object]) -> Callable[..., None]:
    done: list[bool] = []

    def at_first(**_: Any) -> None:
        if not done:
            done.append(True)
            do()

    return at_first


@ON_MARIADB
def test_a_few_calls_launch_for_sixty_agents(world: World) -> None:
    calls: Calls = []
    workers = [
        worker(world, calls, run_instances_burst=5, run_instances_per_second=2.0) for _ in range(2)
    ]
    agents = fleet(world, workers[0], 60, alike=True)
    in_parallel(notices(world, workers, agents))
    seconds = 0
    while sum(bool(world.promotions(a)) for a in agents) < 60 and seconds < 10:
        world.clock.advance(1)
        seconds += 1
        in_parallel([w.reconcile for w in workers])
    assert_each_has_a_replacement(world, agents)
    assert len(managed(world)) == 60
    assert sum(size for _, size in calls) >= 60
    assert len(calls) <= 5 + 2 * seconds
    assert len(calls) <= 15
    assert seconds <= 5


def test_one_call_launches_for_all_waiting_agents(world: World) -> None:
    calls: Calls = []
    sef = worker(world, calls)
    agents = waiting_agents(world, sef)
    settle(world, sef, 3)
    [(token, size)] = calls
    assert size == len(agents)
    assert {a.call_token for a in world.rows("launch_attempts", None)} == {token}
    assert_each_has_a_replacement(world, agents)
    assert {i.client_token for i in managed(world)} == {token}


@ON_MARIADB
def test_standbys_with_equal_parameters_join_the_call_of_an_emergency(world: World) -> None:
    calls: Calls = []
    sef = worker(world, calls)
    empty_bucket(world)
    agents = fleet(world, sef, 3, alike=True)
    ids = list(agents)
    for agent_id in ids[:2]:
        world.signal(sef, REBALANCE, agent_id, instance_id=agents[agent_id])
    world.signal(sef, TERMINATION, ids[2], instance_id=agents[ids[2]])
    settle(world, sef, 3)
    assert [size for _, size in calls] == [3]
    assert [world.standby(a).status for a in ids[:2]] == ["ready", "ready"]
    assert len(world.promotions(ids[2])) == 1
    for agent_id in ids:
        world.check(agent_id)


def test_agents_with_different_parameters_have_separate_calls(world: World) -> None:
    calls: Calls = []
    sef = worker(world, calls)
    empty_bucket(world)
    agents = fleet(world, sef, 3)
    for notice in notices(world, [sef], agents):
        notice()
    settle(world, sef, 6)
    assert [size for _, size in calls] == [1, 1, 1]
    assert_each_has_a_replacement(world, agents)


@pytest.mark.parametrize(
    "moment",
    ["before-call.ec2.RunInstances", "after-call.ec2.RunInstances", "before-call.ec2.CreateTags"],
)
def test_another_worker_completes_the_call_of_a_dead_worker(world: World, moment: str) -> None:
    calls: Calls = []
    dying = worker(world, calls, moment, crash)
    agents = waiting_agents(world, dying)
    world.clock.advance(1)
    with pytest.raises(Crash):
        dying.reconcile()
    sef = worker(world, calls)
    settle(world, sef)
    # The sweep tags the instances that were promoted before they had tags.
    assert sef.sweep_orphans() == 0
    assert_each_has_a_replacement(world, agents)
    assert len(managed(world)) == len(agents)
    assert len({token for token, _ in calls}) == 1


def test_a_call_is_repeated_once_after_its_answer_is_lost(world: World) -> None:
    calls: Calls = []
    sef = worker(world, calls)
    agents = waiting_agents(world, sef)
    world.simulation.add_fault("RunInstances", count=1, lose_reply=True)
    settle(world, sef)
    assert_each_has_a_replacement(world, agents)
    assert len(managed(world)) == len(agents)
    assert calls == [calls[0]] * 2, "one attempt repeats the call for all of them"


@ON_MARIADB
def test_a_throttled_call_is_repeated_with_the_same_token(world: World) -> None:
    calls: Calls = []
    sef = worker(world, calls)
    agents = waiting_agents(world, sef)
    world.simulation.throttle("RunInstances", count=1)
    settle(world, sef)
    assert_each_has_a_replacement(world, agents)
    assert calls == [calls[0]] * 2


@ON_MARIADB
def test_the_closest_deadlines_get_the_instances_of_a_partly_filled_call(world: World) -> None:
    calls: Calls = []
    sef = worker(world, calls)
    agents = waiting_agents(world, sef)
    [pool] = {a.pool_id for a in world.rows("launch_attempts", None)}
    world.simulation.set_pool(pool, room=2)
    settle(world, sef)
    assert calls[0][1] == 4
    assert sum(size for _, size in calls[1:]) == 2, calls
    assert_each_has_a_replacement(world, agents)
    ids = list(agents)
    in_pool = {a for a in ids if world.pool_of(world.agent(a).instance_id) == pool}
    assert in_pool == set(ids[2:]), "the agents with the closest deadlines"
    codes = {a: [t.error_code for t in world.attempts(a)] for a in ids}
    assert codes == {a: [None] if a in in_pool else ["NotGranted", None] for a in ids}
    [event] = world.events("launch_refused", ids[0])
    assert "EC2 launched 2 of 4 instances" in event.message
    assert event.details["one_of"] == 4


@ON_MARIADB
def test_all_attempts_go_to_the_next_pool_when_their_call_is_refused(world: World) -> None:
    calls: Calls = []
    sef = worker(world, calls)
    agents = waiting_agents(world, sef)
    [pool] = {a.pool_id for a in world.rows("launch_attempts", None)}
    world.simulation.set_pool(pool, capacity=False)
    settle(world, sef)
    assert calls[0][1] == 4
    assert sum(size for _, size in calls[1:]) == 4
    assert len(calls) <= 3
    assert_each_has_a_replacement(world, agents)
    for agent_id in agents:
        codes = [a.error_code for a in world.attempts(agent_id)]
        assert codes == ["InsufficientInstanceCapacity", None]


@ON_MARIADB
@pytest.mark.parametrize("code", ["MaxSpotInstanceCountExceeded", "VcpuLimitExceeded"])
def test_a_call_over_a_quota_is_split_into_single_launches(world: World, code: str) -> None:
    calls: Calls = []
    sef = worker(world, calls)
    agents = waiting_agents(world, sef)
    world.simulation.add_fault("RunInstances", error_code=code, count=1)
    settle(world, sef)
    assert [size for _, size in calls] == [4, 1, 1, 1, 1]
    assert_each_has_a_replacement(world, agents)
    assert len({(a.pool_id, a.market) for a in world.rows("launch_attempts", None)}) == 1


@ON_MARIADB
def test_a_forbidden_call_needs_an_operator_for_each_agent(world: World) -> None:
    calls: Calls = []
    sef = worker(world, calls)
    agents = waiting_agents(world, sef)
    world.simulation.add_fault("RunInstances", error_code="UnauthorizedOperation")
    settle(world, sef, 3)
    assert len(calls) == 1
    for agent_id in agents:
        assert len(world.events("operator_needed", agent_id)) == 1
        [incident] = world.rows("incidents", agent_id)
        assert incident.status == "needs_operator"
    world.simulation.clear_faults()
    world.clock.advance(300)
    settle(world, sef, 3)
    assert_each_has_a_replacement(world, agents)


@ON_MARIADB
def test_an_instance_for_a_released_replica_is_terminated(world: World) -> None:
    calls: Calls = []
    other = world.sef()

    def release(**_: Any) -> None:
        other.disable_manual_replica_mode("agent-00")

    settings = {"run_instances_burst": 5, "run_instances_per_second": 1.0}
    sef = worker(world, calls, "after-call.ec2.RunInstances", once(release), **settings)
    empty_bucket(world)
    agents = fleet(world, sef, 3, alike=True)
    for agent_id in agents:
        sef.enable_manual_replica_mode(agent_id)
    world.clock.advance(3)
    sef.reconcile()
    settle(world, sef, 3)
    assert [size for _, size in calls] == [3]
    [released] = world.replicas("agent-00")
    assert released.status == "terminated"
    assert world.state(released.instance_id) == "terminated"
    for agent_id in list(agents)[1:]:
        assert world.standby(agent_id).status == "ready"
    for agent_id in agents:
        world.check(agent_id)
    assert len(managed(world)) == 3


@ON_MARIADB
def test_three_workers_at_once_launch_one_instance_for_each_agent(world: World) -> None:
    calls: Calls = []
    workers = [worker(world, calls) for _ in range(3)]
    agents = waiting_agents(world, workers[0], 6)
    for _ in range(8):
        world.clock.advance(1)
        in_parallel([w.reconcile for w in workers])
    assert_each_has_a_replacement(world, agents)
    assert len(managed(world)) == 6
    assert len(calls) <= 3


@ON_MARIADB
def test_a_worker_frozen_during_the_whole_failover_changes_nothing(world: World) -> None:
    calls: Calls = []
    other = worker(world, calls)

    def finish_failover(**_: Any) -> None:
        settle(world, other, 8)
        assert all(world.promotions(a) for a in agents)

    frozen = worker(world, calls, "after-call.ec2.RunInstances", once(finish_failover))
    agents = waiting_agents(world, frozen)
    world.clock.advance(1)
    frozen.reconcile()
    settle(world, other, 2)
    assert_each_has_a_replacement(world, agents)
    assert len(managed(world)) == len(agents)


@ON_MARIADB
def test_surplus_instances_of_a_call_refused_to_another_worker_are_terminated(
    world: World,
) -> None:
    calls: Calls = []
    other = worker(world, calls)

    def refuse(**_: Any) -> None:
        world.simulation.set_options(visible_after_seconds=3600)
        world.simulation.add_fault(
            "RunInstances", count=1, error_code="InsufficientInstanceCapacity"
        )
        settle(world, other, 4)
        assert {a.error_code for a in world.rows("launch_attempts", None) if a.attempt == 1} == {
            "InsufficientInstanceCapacity"
        }
        world.simulation.set_options(visible_after_seconds=0)

    late = worker(world, calls, "after-call.ec2.RunInstances", once(refuse))
    agents = waiting_agents(world, late)
    world.clock.advance(1)
    late.reconcile()
    settle(world, other)
    assert_each_has_a_replacement(world, agents)
    assert len(managed(world)) == 2 * len(agents)


@ON_MARIADB
def test_a_spent_token_leads_to_new_launches(world: World) -> None:
    """All instances of the call end before SEF has read its answer."""
    calls: Calls = []
    dying = worker(world, calls, "after-call.ec2.RunInstances", crash)
    agents = waiting_agents(world, dying)
    world.clock.advance(1)
    with pytest.raises(Crash):
        dying.reconcile()
    for instance in managed(world):
        world.simulation.terminate(instance.id)
    sef = worker(world, calls)
    settle(world, sef, 20)
    assert_each_has_a_replacement(world, agents)
    assert len(managed(world)) == 2 * len(agents)


@ON_MARIADB
def test_a_sweep_keeps_the_instances_of_an_unanswered_call(world: World) -> None:
    calls: Calls = []
    dying = worker(world, calls, "after-call.ec2.RunInstances", crash)
    agents = waiting_agents(world, dying)
    world.clock.advance(1)
    with pytest.raises(Crash):
        dying.reconcile()
    sef = worker(world, calls)
    for instance in managed(world):
        world.simulation.age(instance.id, 3600)
    assert sef.sweep_orphans() == 0
    settle(world, sef)
    assert sef.sweep_orphans() == 0
    assert_each_has_a_replacement(world, agents)


@ON_MARIADB
def test_a_sweep_terminates_surplus_instances_of_an_answered_call(world: World) -> None:
    calls: Calls = []
    sef = worker(world, calls)
    agents = waiting_agents(world, sef)
    settle(world, sef, 3)
    [(token, _)] = calls
    surplus, unknown = launch_tagged(world, token), launch_tagged(world, "call-of-lost-rows")
    assert sef.sweep_orphans() == 0, "the instances are too young"
    for instance in managed(world):
        world.simulation.age(instance.id, 3600)
    assert sef.sweep_orphans() == 1
    assert world.state(surplus) == "terminated"
    assert world.state(unknown) == "running"
    [event] = [e for e in world.rows("system_events", None) if e.event_type == "orphan_terminated"]
    assert (event.agent_id, event.details["instance_id"]) == (None, surplus)
    for agent_id in agents:
        world.check(agent_id)


def test_refused_tags_delay_no_promotion_and_are_set_later(world: World) -> None:
    calls: Calls = []
    sef = worker(world, calls)
    agents = waiting_agents(world, sef)
    world.simulation.add_fault("CreateTags", error_code="UnauthorizedOperation")
    settle(world, sef, 3)
    assert all(world.promotions(a) for a in agents)
    for instance in managed(world):
        assert AGENT_TAG not in instance.tags
        world.simulation.age(instance.id, 3600)
    assert sef.sweep_orphans() == 0
    for agent_id in agents:
        world.check(agent_id)
    world.simulation.clear_faults()
    assert sef.sweep_orphans() == 0
    assert_each_has_a_replacement(world, agents)


@ON_MARIADB
def test_a_dead_worker_with_a_fast_clock_delays_no_launch(world: World) -> None:
    calls: Calls = []
    ahead = worker(world, calls, "before-call.ec2.RunInstances", crash, ahead=5 * 3600)
    right = worker(world, calls)
    agents = waiting_agents(world, right)
    with pytest.raises(Crash):
        ahead.reconcile()
    settle(world, right)
    assert right.sweep_orphans() == 0
    assert_each_has_a_replacement(world, agents)


@ON_MARIADB
def test_a_timeline_names_the_size_of_a_batched_call(world: World) -> None:
    calls: Calls = []
    sef = worker(world, calls)
    agents = waiting_agents(world, sef)
    settle(world, sef, 3)
    for agent_id in agents:
        [incident] = world.rows("incidents", agent_id)
        story = sef.get_incident(incident.id)
        [call] = [e for e in story["timeline"] if e["type"] == "RunInstances"]
        assert f"one of {len(agents)} in a call: i-" in call["sentence"]
        assert call["details"]["call_token"] == calls[0][0]
        assert call["details"]["instance_id"] == world.agent(agent_id).instance_id
