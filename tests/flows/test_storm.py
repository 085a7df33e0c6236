"""AWS takes a whole pool: many agents at once, and one event."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

from sef.core.pools import SPREAD
from tests.flows.world import ONCE, OTHERS, POOL, REBALANCE, TERMINATION, World


def fleet(world: World, sef: Any, count: int, pool: str = POOL) -> dict[str, str]:
    """Agents whose instances are all in one pool; their primaries by id."""
    kind, _, zone = pool.rpartition(".")
    launched = world.client.run_instances(
        LaunchTemplate={"LaunchTemplateName": "sef-default"},
        InstanceType=kind,  # type: ignore[arg-type]
        Placement={"AvailabilityZone": zone},
        MinCount=count,
        MaxCount=count,
    )["Instances"]
    agents = {f"agent-{n:02}": i["InstanceId"] for n, i in enumerate(launched)}
    for agent_id, instance_id in agents.items():
        sef.register_agent(agent_id, {"instance_id": instance_id, "pool_id": pool})
    return agents


def all_at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(8) as threads:
        return [done.result() for done in [threads.submit(call) for call in calls]]


def notices(world: World, workers: Sequence[Any], agents: dict[str, str]) -> list[Any]:
    """Everyone is given notice within a second, of deadlines a second apart, the last one first."""
    at = world.clock()
    return [
        partial(
            world.signal,
            workers[number % len(workers)],
            TERMINATION,
            agent_id,
            at=at,
            instance_id=instance_id,
            termination_time=(at + timedelta(seconds=120 + len(agents) - number)).isoformat(),
        )
        for number, (agent_id, instance_id) in enumerate(agents.items())
    ]


def of_pools(world: World) -> list[Any]:
    return [e for e in world.rows("system_events", None) if e.event_type == "pool_interrupted"]


@ONCE
def test_one_pool_that_takes_many_agents_is_one_event(world: World) -> None:
    one, two = world.sef(), world.sef()
    agents = fleet(world, one, 6)
    all_at_once(notices(world, [one, two], agents))
    all_at_once([one.reconcile, two.reconcile])
    world.settle(one, 5)
    [event] = of_pools(world)
    assert event.severity == "warning"
    assert event.agent_id is None
    assert event.details["pool_id"] == POOL
    assert event.details["agents"] == 6


@ONCE
def test_agents_that_follow_are_counted_under_the_same_event(world: World) -> None:
    sef = world.sef()
    agents = fleet(world, sef, 5)
    for number, (agent_id, instance_id) in enumerate(agents.items()):
        world.signal(sef, TERMINATION, agent_id, instance_id=instance_id)
        world.settle(sef, 30)
        assert len(of_pools(world)) == (number >= 2)
    [event] = of_pools(world)
    assert event.details["agents"] == 5
    assert event.message == f"SEF: AWS takes instances of 5 agents in {POOL} at once"


@ONCE
def test_another_storm_of_the_same_pool_is_another_event(world: World) -> None:
    sef = world.sef()
    for number in range(2):
        agents = {f"{number}-{a}": i for a, i in fleet(world, sef, 3).items()}
        for agent_id, instance_id in agents.items():
            sef.register_agent(agent_id, {"instance_id": instance_id, "pool_id": POOL})
            world.signal(sef, TERMINATION, agent_id, instance_id=instance_id)
        world.settle(sef, 1)
        world.clock.advance(3600)
    assert [e.details["agents"] for e in of_pools(world)] == [3, 3]


@ONCE
def test_single_interruptions_and_recommendations_are_no_storm(world: World) -> None:
    sef = world.sef()
    agents = fleet(world, sef, 5)
    for number, (agent_id, instance_id) in enumerate(agents.items()):
        kind = TERMINATION if number < 2 else REBALANCE
        world.signal(sef, kind, agent_id, instance_id=instance_id)
    world.settle(sef, 1)
    assert of_pools(world) == []


@ONCE
def test_its_launches_are_spread_over_the_other_pools(world: World) -> None:
    sef = world.sef(pools=",".join([POOL, *OTHERS]))
    agents = fleet(world, sef, 2 * SPREAD)
    for notice in notices(world, [sef], agents):
        assert notice()["action"] == "promoted"
    launched = Counter(i.pool for agent_id in agents for i in world.tagged(agent_id))
    assert launched == {OTHERS[0]: SPREAD, OTHERS[1]: SPREAD}
