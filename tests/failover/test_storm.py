"""A storm: AWS interrupts many agents of one pool at once, under EC2's request limits."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

from botocore.exceptions import ReadTimeoutError
from sqlalchemy import update

from sef.db import tables
from sef.failover.ranking import LAUNCHES_PER_POOL
from tests.harness import ON_MARIADB, OTHERS, POOL, REBALANCE, TERMINATION, World
from tests.waiting import LIMIT, until


def fleet(
    world: World, sef: Any, count: int, pool: str = POOL, *, alike: bool = False
) -> dict[str, str]:
    """Register agents with instances in one pool; return their primaries by agent id.

    Unless they are alike, each instance has a Name of its own, so that one call launches one
    standby.
    """
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
        if not alike:
            name: Any = {"Key": "Name", "Value": agent_id}
            world.client.create_tags(Resources=[instance_id], Tags=[name])
        sef.register_agent(agent_id, {"instance_id": instance_id, "pool_id": pool})
    return agents


def in_parallel(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(8) as threads:
        return [done.result() for done in [threads.submit(call) for call in calls]]


def notices(world: World, workers: Sequence[Any], agents: dict[str, str]) -> list[Any]:
    """Return a notice for each agent, with deadlines a second apart, the last agent first."""
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


def storm_events(world: World) -> list[Any]:
    return [e for e in world.rows("system_events", None) if e.event_type == "pool_interrupted"]


@ON_MARIADB
def test_it_reports_a_storm_as_one_event(world: World) -> None:
    one, two = world.sef(), world.sef()
    agents = fleet(world, one, 6)
    in_parallel(notices(world, [one, two], agents))
    in_parallel([one.reconcile, two.reconcile])
    world.settle(one, 5)
    [event] = storm_events(world)
    assert event.severity == "warning"
    assert event.agent_id is None
    assert event.details["pool_id"] == POOL
    assert event.details["agents"] == 6


@ON_MARIADB
def test_it_counts_later_agents_of_a_storm_in_the_same_event(world: World) -> None:
    sef = world.sef()
    agents = fleet(world, sef, 5)
    for number, (agent_id, instance_id) in enumerate(agents.items()):
        world.signal(sef, TERMINATION, agent_id, instance_id=instance_id)
        world.settle(sef, 30)
        assert len(storm_events(world)) == (number >= 2)
    [event] = storm_events(world)
    assert event.details["agents"] == 5
    assert event.message == f"SEF: AWS is interrupting instances of 5 agents in {POOL} at once"


@ON_MARIADB
def test_it_reports_a_later_storm_of_the_pool_as_another_event(world: World) -> None:
    sef = world.sef()
    for number in range(2):
        agents = {f"{number}-{a}": i for a, i in fleet(world, sef, 3).items()}
        for agent_id, instance_id in agents.items():
            sef.register_agent(agent_id, {"instance_id": instance_id, "pool_id": POOL})
            world.signal(sef, TERMINATION, agent_id, instance_id=instance_id)
        world.settle(sef, 1)
        world.clock.advance(3600)
    assert [e.details["agents"] for e in storm_events(world)] == [3, 3]


@ON_MARIADB
def test_single_notices_and_recommendations_are_not_a_storm(world: World) -> None:
    sef = world.sef()
    agents = fleet(world, sef, 5)
    for number, (agent_id, instance_id) in enumerate(agents.items()):
        kind = TERMINATION if number < 2 else REBALANCE
        world.signal(sef, kind, agent_id, instance_id=instance_id)
    world.settle(sef, 1)
    assert storm_events(world) == []


@ON_MARIADB
def test_it_spreads_the_launches_of_a_storm_over_the_other_pools(world: World) -> None:
    sef = world.sef(spot_pools=",".join([POOL, *OTHERS]))
    agents = fleet(world, sef, 2 * LAUNCHES_PER_POOL)
    for notice in notices(world, [sef], agents):
        assert notice()["action"] == "promoted"
    launched = Counter(i.pool for agent_id in agents for i in world.tagged(agent_id))
    assert launched == {OTHERS[0]: LAUNCHES_PER_POOL, OTHERS[1]: LAUNCHES_PER_POOL}


# EC2's request buckets


def launch_log() -> tuple[list[str], Callable[..., None]]:
    """Return a list of the replicas that EC2 launches, in order, and the hook that fills it."""
    made: list[str] = []

    def note(params: Any, **_: Any) -> None:
        made.append(params["body"]["ClientToken"].rpartition("-")[0])

    return made, note


def sef_with_limits(
    world: World, note: Callable[..., None], *, ahead: float = 0, **settings: Any
) -> Any:
    cloud = world.cloud("before-call.ec2.RunInstances", note)
    given = {"run_instances_burst": 5, "run_instances_per_second": 2.0} | settings
    return world.sef(cloud, ahead=ahead, **given)


def agents_of(world: World, replica_ids: Sequence[str]) -> list[str]:
    owners = {r.id: r.agent_id for r in world.rows("replica_instances", None)}
    return [owners[replica_id] for replica_id in replica_ids]


@ON_MARIADB
def test_forty_agents_have_one_replacement_each_under_ec2s_limits(world: World) -> None:
    made, note = launch_log()
    workers = [sef_with_limits(world, note, spot_pools=",".join([POOL, *OTHERS])) for _ in range(2)]
    agents = fleet(world, workers[0], 40)
    in_parallel(notices(world, workers, agents))
    assert len(made) == 5, "the bucket holds five"
    seconds = 0
    while len(made) < 40 and seconds < 60:
        before = len(made)
        world.clock.advance(2)
        seconds += 2
        in_parallel([worker.reconcile for worker in workers])
        assert len(made) - before <= 4, "two come back each second"
    assert seconds <= 22, "SEF holds back hardly a call that EC2 would accept"
    world.settle(workers[0], 2)

    served = agents_of(world, made)
    assert sorted(served) == sorted(agents), "one call for each agent"
    # The last agent has the closest deadline. The first five agents came before any other agent
    # waited, and were served in the order of arrival.
    waited = served[5:]
    for position, agent_id in enumerate(waited):
        later = [a for a in waited[position + 4 :] if a > agent_id]
        assert not later, f"{later} had closer deadlines than {agent_id}"
    for agent_id, old in agents.items():
        [replacement] = world.tagged(agent_id)
        assert world.agent(agent_id).instance_id == replacement.id != old
        world.check(agent_id)
    pools = Counter(i.pool for a in agents for i in world.tagged(a))
    # Agents that choose at the same moment do not see the choice of each other.
    assert max(pools.values()) - min(pools.values()) <= 2 * LAUNCHES_PER_POOL
    assert len(storm_events(world)) == 1
    assert {i.status for i in world.rows("incidents", None)} == {"done"}


@ON_MARIADB
def test_a_standby_launch_leaves_tokens_for_emergencies(world: World) -> None:
    made, note = launch_log()
    sef = sef_with_limits(world, note)
    agents = fleet(world, sef, 6)
    recommended = list(agents)[:4]
    for agent_id in recommended:
        world.signal(sef, REBALANCE, agent_id, instance_id=agents[agent_id])
    assert len(made) == 3
    for agent_id in list(agents)[4:]:
        answer = world.signal(sef, TERMINATION, agent_id, instance_id=agents[agent_id])
        assert answer["action"] == "promoted"
    assert len(made) == 5
    world.settle(sef, 1)
    assert len(made) == 5, "the two tokens in the bucket are reserved for emergencies"
    world.settle(sef, 1)
    assert len(made) == 6
    assert world.standby(recommended[3]).status == "ready"
    assert world.agent(recommended[3]).not_before is None, "waiting for a token postpones no work"


@ON_MARIADB
def test_a_notice_does_not_take_the_token_of_a_closer_deadline(world: World) -> None:
    made, note = launch_log()
    sef = sef_with_limits(world, note, run_instances_burst=2, run_instances_per_second=1.0)
    agents = fleet(world, sef, 4)
    deadlines = {"agent-00": 110, "agent-01": 100, "agent-02": 30, "agent-03": 90}
    at = world.clock()

    def notice(agent_id: str) -> Any:
        return world.signal(
            sef,
            TERMINATION,
            agent_id,
            instance_id=agents[agent_id],
            termination_time=(at + timedelta(seconds=deadlines[agent_id])).isoformat(),
        )

    for agent_id in ("agent-00", "agent-01", "agent-02"):
        notice(agent_id)
    assert agents_of(world, made) == ["agent-00", "agent-01"]
    world.clock.advance(1)
    assert notice("agent-03")["action"] == "replica_launching"
    assert len(made) == 2, "the only token belongs to an agent with a closer deadline"
    sef.reconcile()
    assert agents_of(world, made)[2:] == ["agent-02"]
    world.settle(sef, 1)
    assert agents_of(world, made)[3:] == ["agent-03"]


@ON_MARIADB
def test_a_retried_launch_takes_a_token(world: World) -> None:
    made, note = launch_log()
    sef = sef_with_limits(world, note, run_instances_burst=1, run_instances_per_second=0.1)
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", count=1, lose_reply=True)
    world.signal(sef, TERMINATION, instance_id=primary)
    assert len(made) == 1
    world.settle(sef, 7)
    assert len(made) == 1
    world.settle(sef, 3)
    assert len(made) == 2
    assert world.agent().instance_id == world.tagged()[0].id
    world.check()


@ON_MARIADB
def test_a_throttled_call_empties_the_bucket(world: World) -> None:
    """Another program on the account uses the bucket of EC2 too."""
    made, note = launch_log()
    sef = sef_with_limits(world, note)
    agents = fleet(world, sef, 2)
    world.simulation.throttle("RunInstances", count=1)
    for agent_id, instance_id in agents.items():
        world.signal(sef, TERMINATION, agent_id, instance_id=instance_id)
    assert len(made) == 1
    world.clock.advance(7)
    in_parallel([sef.reconcile])
    assert len(made) == 3
    for agent_id in agents:
        world.check(agent_id)


@ON_MARIADB
def test_a_pool_without_capacity_costs_one_call_and_not_one_for_each_agent(world: World) -> None:
    _, note = launch_log()
    sef = sef_with_limits(
        world,
        note,
        run_instances_burst=1,
        run_instances_per_second=1.0,
        spot_pools=",".join(OTHERS),
    )
    world.simulation.set_pool(OTHERS[0], capacity=False)
    world.simulation.set_pool(OTHERS[1], capacity=False)
    agents = fleet(world, sef, 4)
    for agent_id, instance_id in agents.items():
        world.signal(sef, TERMINATION, agent_id, instance_id=instance_id)
    for _ in range(10):
        world.settle(sef, 1)
    spot = [a for a in world.rows("launch_attempts", None) if a.market == "spot"]
    assert sum(a.calls for a in spot) == 2
    for agent_id in agents:
        assert world.alive(agent_id)[0].market == "on-demand"
        world.check(agent_id)


@ON_MARIADB
def test_it_does_not_launch_a_waiting_replica_that_was_released(
    world: World,
) -> None:
    made, note = launch_log()
    sef = sef_with_limits(world, note, run_instances_burst=1, run_instances_per_second=0.1)
    primary = world.primary(sef, "b")
    world.signal(sef, TERMINATION, "b", instance_id=primary)
    world.primary(sef)
    sef.enable_manual_replica_mode("a")
    sef.disable_manual_replica_mode("a")
    world.settle(sef, 60)
    assert len(made) == 1
    assert world.tagged() == []
    assert {r.status for r in world.replicas()} == {"terminated"}
    world.check()


@ON_MARIADB
def test_a_worker_whose_clock_is_ahead_empties_the_bucket_for_a_moment_only(world: World) -> None:
    made, note = launch_log()
    ahead = sef_with_limits(
        world, note, ahead=5 * 3600, run_instances_burst=1, run_instances_per_second=1.0
    )
    agents = fleet(world, ahead, 2)
    ids = list(agents)
    world.signal(ahead, TERMINATION, ids[0], instance_id=agents[ids[0]])
    assert len(made) == 1
    right = sef_with_limits(world, note, run_instances_burst=1, run_instances_per_second=1.0)
    world.signal(right, TERMINATION, ids[1], instance_id=agents[ids[1]])
    assert len(made) == 1
    world.settle(right, 1)
    assert len(made) == 2


@ON_MARIADB
def test_calls_without_an_answer_do_not_delay_other_agents(world: World) -> None:
    """More calls hang than a lane has threads; other agents are served before a call returns."""
    hanging = threading.Event()

    def hang(params: Any, **_: Any) -> None:
        if "hangs" in str(params["body"]):
            assert hanging.wait(2 * LIMIT)
            raise ReadTimeoutError(endpoint_url="ec2")

    quick = world.sef()
    slow = world.sef(
        world.cloud("before-call.ec2.RunInstances", hang), reconcile_interval_seconds=0.1
    )
    agents = fleet(world, quick, 12)
    poisoned, others = list(agents)[:9], list(agents)[9:]
    for agent_id in poisoned:
        # The call for the standby repeats the tags of the primary.
        world.client.create_tags(
            Resources=[agents[agent_id]], Tags=[{"Key": "Name", "Value": "hangs"}]
        )
    world.simulation.throttle("*")
    for notice in notices(world, [quick], dict(reversed(agents.items()))):
        notice()
    world.simulation.clear_faults()
    world.clock.advance(7)
    rows = {a: world.agent(a) for a in poisoned}
    assert all(row.not_before for row in rows.values()), "they failed before"

    world.write(update(tables.agents).where(tables.agents.c.id.in_(others)).values(not_before=None))
    with ThreadPoolExecutor(1) as background:
        running = background.submit(slow.reconcile)
        try:
            until(lambda: all(world.promotions(agent_id) for agent_id in others))
            assert not running.done(), "the hanging calls still hang"
        finally:
            hanging.set()
        running.result()
    for agent_id in others:
        world.check(agent_id)


@ON_MARIADB
def test_terminations_have_a_token_bucket_of_their_own(world: World) -> None:
    ended: list[str] = []

    def note(params: Any, **_: Any) -> None:
        ended.append(params["body"]["InstanceId.1"])

    cloud = world.cloud("before-call.ec2.TerminateInstances", note)
    sef = world.sef(cloud, terminate_instances_burst=1, terminate_instances_per_second=0.1)
    agents = fleet(world, sef, 3)
    for agent_id in agents:
        sef.enable_manual_replica_mode(agent_id)
    for agent_id in agents:
        sef.disable_manual_replica_mode(agent_id)
    assert len(ended) == 1
    world.settle(sef, 9)
    assert len(ended) == 1
    for _ in range(2):
        world.settle(sef, 11)
    assert len(ended) == len(set(ended)) == 3
    for agent_id in agents:
        assert world.alive(agent_id) == []
        world.check(agent_id)


@ON_MARIADB
def test_a_single_hanging_call_does_not_delay_an_agent_that_becomes_due(world: World) -> None:
    hanging, has_begun = threading.Event(), threading.Event()

    def hang(params: Any, **_: Any) -> None:
        if "hangs" in str(params["body"]):
            has_begun.set()
            assert hanging.wait(2 * LIMIT)
            raise ReadTimeoutError(endpoint_url="ec2")

    quick = world.sef()
    slow = world.sef(
        world.cloud("before-call.ec2.RunInstances", hang), reconcile_interval_seconds=0.1
    )
    agents = fleet(world, quick, 2)
    alone, after = agents
    world.client.create_tags(Resources=[agents[alone]], Tags=[{"Key": "Name", "Value": "hangs"}])
    world.simulation.throttle("*")
    for notice in notices(world, [quick], agents):
        notice()
    world.simulation.clear_faults()
    column = tables.agents.c.id
    not_yet = world.clock() + timedelta(minutes=5)
    world.write(update(tables.agents).where(column == alone).values(not_before=None))
    world.write(update(tables.agents).where(column == after).values(not_before=not_yet))
    with ThreadPoolExecutor(1) as background:
        running = background.submit(slow.reconcile)
        try:
            assert has_begun.wait(LIMIT)
            world.write(update(tables.agents).where(column == after).values(not_before=None))
            until(lambda: world.promotions(after))
            assert not running.done(), "the one that hangs still does"
        finally:
            hanging.set()
        running.result()


def agents_with_standby(world: World, sef: Any, count: int) -> dict[str, str]:
    """Register agents with a ready standby each."""
    agents = fleet(world, sef, count, alike=True)
    for agent_id in agents:
        world.signal(sef, REBALANCE, agent_id)
    world.settle(sef, 1)
    assert all(world.replicas(agent_id, "ready") for agent_id in agents)
    return agents


class SharedCheck:
    """Hold the first check at EC2 until all other checks wait for its end."""

    def __init__(self, others: int) -> None:
        self.calls: list[Any] = []
        self.looks: Any = None
        self._others = others

    def __call__(self, params: dict[str, Any], **_: Any) -> None:
        self.calls.append(params["body"])
        until(lambda: len(self.calls) > 1 or len(self.looks._waiting) == self._others)


def notify_all(world: World, agents: dict[str, str]) -> SharedCheck:
    together = SharedCheck(len(agents) - 1)
    sef = world.sef(world.cloud("before-call.ec2.DescribeInstances", together))
    together.looks = sef._context.describe
    together.looks._patience = LIMIT  # on a busy machine, one that waits a second would call alone
    in_parallel(notices(world, [sef], agents))
    return together


@ON_MARIADB
def test_concurrent_checks_of_standbys_share_a_call(world: World) -> None:
    agents = agents_with_standby(world, world.sef(), 6)
    together = notify_all(world, agents)
    assert len(together.calls) == 2, "one for the first, one for all others"
    for agent_id in agents:
        [promotion] = world.promotions(agent_id)
        assert promotion.details["unseen"] is None
        world.check(agent_id)


@ON_MARIADB
def test_an_error_of_a_shared_check_reaches_every_promotion(world: World) -> None:
    agents = agents_with_standby(world, world.sef(), 6)
    world.simulation.throttle("DescribeInstances", count=2)
    together = notify_all(world, agents)
    assert len(together.calls) == 2, "no check is repeated alone"
    for agent_id in agents:
        [promotion] = world.promotions(agent_id)
        assert "RequestLimitExceeded" in promotion.details["unseen"]
