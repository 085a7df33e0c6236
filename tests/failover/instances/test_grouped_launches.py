"""Launches that wait for EC2 and are alike are made by one call, and are each agent's own."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert

from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, MANAGED_TAG, REPLICA_TAG
from sef.db import tables
from sef.simulator.client import SimulatedInstance
from tests.failover.test_storm import all_at_once, fleet, notices
from tests.harness import ALIVE, ONCE, OTHERS, REBALANCE, TERMINATION, Crash, World

POOLS = ",".join(OTHERS)
AGENTS = 4

Made = list[tuple[str, int]]


def worker(world: World, made: Made, on: str = "", do: Any = None, **settings: Any) -> Any:
    """One that notes the RunInstances calls it makes, token and MaxCount; `do` happens `on`."""

    def note(params: Any, **_: Any) -> None:
        made.append((params["body"]["ClientToken"], params["body"]["MaxCount"]))

    cloud = world.cloud("before-call.ec2.RunInstances", note)
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


def waiting(world: World, sef: Any, count: int = AGENTS) -> dict[str, str]:
    """Agents that were given notice, the last one of the closest deadline; none has its call."""
    empty_bucket(world)
    agents = fleet(world, sef, count, alike=True)
    for notice in notices(world, [sef], agents):
        assert notice()["action"] == "replica_launching"
    return agents


def settle(world: World, sef: Any, times: int = 12) -> None:
    for _ in range(times):
        world.settle(sef, 1)


def managed(world: World) -> list[SimulatedInstance]:
    """What SEF has ever launched, whoever has it."""
    [deployment] = world.rows("deployment", None)
    return [i for i in world.simulation.instances() if i.tags.get(MANAGED_TAG) == deployment.name]


def served(world: World, agents: dict[str, str]) -> None:
    """Each has one replacement of its own, which EC2 tells by its tags, and nothing else runs."""
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


@ONCE
def test_sixty_agents_are_served_by_a_few_calls(world: World) -> None:
    made: Made = []
    workers = [
        worker(world, made, run_instances_burst=5, run_instances_per_second=2.0) for _ in range(2)
    ]
    agents = fleet(world, workers[0], 60, alike=True)
    all_at_once(notices(world, workers, agents))
    seconds = 0
    while sum(bool(world.promotions(a)) for a in agents) < 60 and seconds < 10:
        world.clock.advance(1)
        seconds += 1
        all_at_once([w.reconcile for w in workers])
    served(world, agents)
    assert len(managed(world)) == 60
    assert sum(size for _, size in made) >= 60
    assert len(made) <= 5 + 2 * seconds
    assert len(made) <= 15
    assert seconds <= 5


def test_those_that_wait_are_launched_by_one_call(world: World) -> None:
    made: Made = []
    sef = worker(world, made)
    agents = waiting(world, sef)
    settle(world, sef, 3)
    [(token, size)] = made
    assert size == len(agents)
    assert {a.call_token for a in world.rows("launch_attempts", None)} == {token}
    served(world, agents)
    assert {i.client_token for i in managed(world)} == {token}


@ONCE
def test_standbys_that_are_alike_come_along_with_an_emergency(world: World) -> None:
    made: Made = []
    sef = worker(world, made)
    empty_bucket(world)
    agents = fleet(world, sef, 3, alike=True)
    ids = list(agents)
    for agent_id in ids[:2]:
        world.signal(sef, REBALANCE, agent_id, instance_id=agents[agent_id])
    world.signal(sef, TERMINATION, ids[2], instance_id=agents[ids[2]])
    settle(world, sef, 3)
    assert [size for _, size in made] == [3]
    assert [world.standby(a).status for a in ids[:2]] == ["ready", "ready"]
    assert len(world.promotions(ids[2])) == 1
    for agent_id in ids:
        world.check(agent_id)


def test_agents_that_differ_in_anything_have_calls_of_their_own(world: World) -> None:
    made: Made = []
    sef = worker(world, made)
    empty_bucket(world)
    agents = fleet(world, sef, 3)
    for notice in notices(world, [sef], agents):
        notice()
    settle(world, sef, 6)
    assert [size for _, size in made] == [1, 1, 1]
    served(world, agents)


@pytest.mark.parametrize(
    "moment",
    ["before-call.ec2.RunInstances", "after-call.ec2.RunInstances", "before-call.ec2.CreateTags"],
)
def test_a_worker_dies(world: World, moment: str) -> None:
    made: Made = []
    dying = worker(world, made, moment, crash)
    agents = waiting(world, dying)
    world.clock.advance(1)
    with pytest.raises(Crash):
        dying.reconcile()
    sef = worker(world, made)
    settle(world, sef)
    # Of those who were promoted the tags are left to the sweep.
    assert sef.sweep_orphans() == 0
    served(world, agents)
    assert len(managed(world)) == len(agents)
    assert len({token for token, _ in made}) == 1


def test_its_answer_is_lost(world: World) -> None:
    made: Made = []
    sef = worker(world, made)
    agents = waiting(world, sef)
    world.simulation.add_fault("RunInstances", count=1, lose_reply=True)
    settle(world, sef)
    served(world, agents)
    assert len(managed(world)) == len(agents)
    assert made == [made[0]] * 2, "one of them repeats it, and not each"


@ONCE
def test_ec2_is_throttled(world: World) -> None:
    made: Made = []
    sef = worker(world, made)
    agents = waiting(world, sef)
    world.simulation.throttle("RunInstances", count=1)
    settle(world, sef)
    served(world, agents)
    assert made == [made[0]] * 2


@ONCE
def test_there_is_room_for_some_of_them(world: World) -> None:
    made: Made = []
    sef = worker(world, made)
    agents = waiting(world, sef)
    [pool] = {a.pool_id for a in world.rows("launch_attempts", None)}
    world.simulation.set_pool(pool, room=2)
    settle(world, sef)
    assert made[0][1] == 4
    assert sum(size for _, size in made[1:]) == 2, made
    served(world, agents)
    ids = list(agents)
    there = {a for a in ids if world.pool_of(world.agent(a).instance_id) == pool}
    assert there == set(ids[2:]), "those of the closest deadlines"
    codes = {a: [t.error_code for t in world.attempts(a)] for a in ids}
    assert codes == {a: [None] if a in there else ["NotGranted", None] for a in ids}
    [event] = world.events("launch_refused", ids[0])
    assert "EC2 launched 2 of 4 instances" in event.message
    assert event.details["one_of"] == 4


@ONCE
def test_it_is_refused_for_all(world: World) -> None:
    made: Made = []
    sef = worker(world, made)
    agents = waiting(world, sef)
    [pool] = {a.pool_id for a in world.rows("launch_attempts", None)}
    world.simulation.set_pool(pool, capacity=False)
    settle(world, sef)
    assert made[0][1] == 4
    assert sum(size for _, size in made[1:]) == 4
    assert len(made) <= 3
    served(world, agents)
    for agent_id in agents:
        codes = [a.error_code for a in world.attempts(agent_id)]
        assert codes == ["InsufficientInstanceCapacity", None]


@ONCE
@pytest.mark.parametrize("code", ["MaxSpotInstanceCountExceeded", "VcpuLimitExceeded"])
def test_what_is_too_much_for_a_quota_is_launched_one_by_one(world: World, code: str) -> None:
    made: Made = []
    sef = worker(world, made)
    agents = waiting(world, sef)
    world.simulation.add_fault("RunInstances", error_code=code, count=1)
    settle(world, sef)
    assert [size for _, size in made] == [4, 1, 1, 1, 1]
    served(world, agents)
    assert len({(a.pool_id, a.market) for a in world.rows("launch_attempts", None)}) == 1


@ONCE
def test_it_is_refused_and_a_person_is_needed(world: World) -> None:
    made: Made = []
    sef = worker(world, made)
    agents = waiting(world, sef)
    world.simulation.add_fault("RunInstances", error_code="UnauthorizedOperation")
    settle(world, sef, 3)
    assert len(made) == 1
    for agent_id in agents:
        assert len(world.events("operator_needed", agent_id)) == 1
        [incident] = world.rows("incidents", agent_id)
        assert incident.status == "needs_operator"
    world.simulation.clear_faults()
    world.clock.advance(300)
    settle(world, sef, 3)
    served(world, agents)


@ONCE
def test_one_of_them_is_not_wanted_any_more_when_the_answer_comes(world: World) -> None:
    made: Made = []
    other = world.sef()

    def release(**_: Any) -> None:
        other.disable_manual_replica_mode("agent-00")

    settings = {"run_instances_burst": 5, "run_instances_per_second": 1.0}
    sef = worker(world, made, "after-call.ec2.RunInstances", once(release), **settings)
    empty_bucket(world)
    agents = fleet(world, sef, 3, alike=True)
    for agent_id in agents:
        sef.enable_manual_replica_mode(agent_id)
    world.clock.advance(3)
    sef.reconcile()
    settle(world, sef, 3)
    assert [size for _, size in made] == [3]
    [released] = world.replicas("agent-00")
    assert released.status == "terminated"
    assert world.state(released.instance_id) == "terminated"
    for agent_id in list(agents)[1:]:
        assert world.standby(agent_id).status == "ready"
    for agent_id in agents:
        world.check(agent_id)
    assert len(managed(world)) == 3


@ONCE
def test_several_workers_at_once(world: World) -> None:
    made: Made = []
    workers = [worker(world, made) for _ in range(3)]
    agents = waiting(world, workers[0], 6)
    for _ in range(8):
        world.clock.advance(1)
        all_at_once([w.reconcile for w in workers])
    served(world, agents)
    assert len(managed(world)) == 6
    assert len(made) <= 3


@ONCE
def test_a_worker_that_was_frozen_through_all_of_it_changes_nothing(world: World) -> None:
    made: Made = []
    other = worker(world, made)

    def go_on(**_: Any) -> None:
        settle(world, other, 8)
        assert all(world.promotions(a) for a in agents)

    frozen = worker(world, made, "after-call.ec2.RunInstances", once(lambda: go_on()))
    agents = waiting(world, frozen)
    world.clock.advance(1)
    frozen.reconcile()
    settle(world, other, 2)
    served(world, agents)
    assert len(managed(world)) == len(agents)


@ONCE
def test_what_ec2_launched_though_it_was_refused_to_another_worker_is_terminated(
    world: World,
) -> None:
    made: Made = []
    other = worker(world, made)

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

    late = worker(world, made, "after-call.ec2.RunInstances", once(lambda: refuse()))
    agents = waiting(world, late)
    world.clock.advance(1)
    late.reconcile()
    settle(world, other)
    served(world, agents)
    assert len(managed(world)) == 2 * len(agents)


@ONCE
def test_its_token_is_spent(world: World) -> None:
    """All that it launched is gone before anybody has heard of it."""
    made: Made = []
    dying = worker(world, made, "after-call.ec2.RunInstances", crash)
    agents = waiting(world, dying)
    world.clock.advance(1)
    with pytest.raises(Crash):
        dying.reconcile()
    for instance in managed(world):
        world.simulation.terminate(instance.id)
    sef = worker(world, made)
    settle(world, sef, 30)
    served(world, agents)
    assert len(managed(world)) == 2 * len(agents)


@ONCE
def test_the_sweep_leaves_alone_what_is_not_answered_yet(world: World) -> None:
    made: Made = []
    dying = worker(world, made, "after-call.ec2.RunInstances", crash)
    agents = waiting(world, dying)
    world.clock.advance(1)
    with pytest.raises(Crash):
        dying.reconcile()
    sef = worker(world, made)
    for instance in managed(world):
        world.simulation.age(instance.id, 3600)
    assert sef.sweep_orphans() == 0
    settle(world, sef)
    assert sef.sweep_orphans() == 0
    served(world, agents)


@ONCE
def test_the_sweep_terminates_what_nobody_took_of_an_answered_call(world: World) -> None:
    made: Made = []
    sef = worker(world, made)
    agents = waiting(world, sef)
    settle(world, sef, 3)
    [(token, _)] = made
    forgotten, unknown = (
        world.launch(TagSpecifications=[{"ResourceType": "instance", "Tags": told}])
        for told in (
            [tag(world, MANAGED_TAG), {"Key": ATTEMPT_TAG, "Value": token}],
            [tag(world, MANAGED_TAG), {"Key": ATTEMPT_TAG, "Value": "call-of-lost-rows"}],
        )
    )
    assert sef.sweep_orphans() == 0, "it is young"
    for instance in managed(world):
        world.simulation.age(instance.id, 3600)
    assert sef.sweep_orphans() == 1
    assert world.state(forgotten) == "terminated"
    assert world.state(unknown) == "running"
    [event] = [e for e in world.rows("system_events", None) if e.event_type == "orphan_terminated"]
    assert (event.agent_id, event.details["instance_id"]) == (None, forgotten)
    for agent_id in agents:
        world.check(agent_id)


def tag(world: World, key: str) -> dict[str, str]:
    [deployment] = world.rows("deployment", None)
    return {"Key": key, "Value": deployment.name}


def test_tags_that_cannot_be_set_hold_up_nothing_and_are_set_later(world: World) -> None:
    made: Made = []
    sef = worker(world, made)
    agents = waiting(world, sef)
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
    served(world, agents)


@ONCE
def test_a_worker_whose_clock_is_ahead_holds_up_nobody(world: World) -> None:
    made: Made = []
    ahead = worker(world, made, "before-call.ec2.RunInstances", crash, ahead=5 * 3600)
    right = worker(world, made)
    agents = waiting(world, right)
    with pytest.raises(Crash):
        ahead.reconcile()
    settle(world, right)
    assert right.sweep_orphans() == 0
    served(world, agents)


@ONCE
def test_an_incident_tells_that_its_call_was_for_several(world: World) -> None:
    made: Made = []
    sef = worker(world, made)
    agents = waiting(world, sef)
    settle(world, sef, 3)
    for agent_id in agents:
        [incident] = world.rows("incidents", agent_id)
        story = sef.get_incident(incident.id)
        [call] = [e for e in story["timeline"] if e["type"] == "RunInstances"]
        assert f"one of {len(agents)} in a call: i-" in call["sentence"]
        assert call["details"]["call_token"] == made[0][0]
        assert call["details"]["instance_id"] == world.agent(agent_id).instance_id
