"""Check SEF's invariants on the rows and on the instances at EC2."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, MANAGED_TAG
from sef.cloud.errors import TRANSIENT
from sef.config import Settings
from sef.notifications.messages import TRIES
from sef.prices.series import Observation, clean_series
from sef.simulator.client import SimulatedInstance
from sef.terms import Source
from tests.db.rows import stored_points
from tests.failover.cutover.cutover_targets import Belongings
from tests.harness import ALIVE
from tests.soak.belongings import check_belongings, holders_of
from tests.soak.harness import Stage

UNKNOWN = TRANSIENT | {
    "ConnectionClosedError",
    "ConnectTimeoutError",
    "EndpointConnectionError",
    "IncompleteAnswer",
    "ReadTimeoutError",
}
"""Error codes after which the result of a launch is unknown."""

MIN_MISSES = 10
"""Consecutive misses after which SEF gives a standby up (`sef.failover.standbys.watch`)."""

PLANNED = ("drill", "return-to-spot")
LIVE = ("launching", "ready")
CLAIMING = (*LIVE, "promoted", "releasing")
Observed = dict[tuple[Source, datetime], Decimal]


def ours(stage: Stage, instances: Mapping[str, SimulatedInstance]) -> list[SimulatedInstance]:
    """Return the instances that the SEF of this story has launched."""
    names = {row.name for row in stage.rows("deployment", None)}
    return [
        i for i in instances.values() if i.tags.get(MANAGED_TAG) in names and ATTEMPT_TAG in i.tags
    ]


def check_always(
    stage: Stage,
    taken: Collection[str],
    epochs: dict[str, int],
    forgotten: Collection[str] = (),
) -> None:
    """Check the invariants that hold after every step, also during faults.

    Args:
        stage: the stage of the story.
        taken: instances that the story terminated or stopped.
        epochs: the last known epoch of each agent; this function updates them.
        forgotten: client tokens of launches that restored rows may not know.
    """
    assert stage.logged_error is None, f"a job logged an exception:\n{stage.logged_error}"
    instances = stage.instances()
    agents = stage.rows("agents", None)
    replicas = stage.rows("replica_instances", None)
    attempts = stage.rows("launch_attempts", None)

    standbys = {r.agent_id: r for r in replicas if r.live_agent_id}
    for agent in agents:
        assert not (
            agent.manual_replica_enabled
            and (agent.auto_switch_enabled or agent.auto_terminate_enabled)
        ), f"{agent.id} is in both modes"
        assert agent.epoch >= epochs.get(agent.id, 1), f"the epoch of {agent.id} decreased"
        epochs[agent.id] = agent.epoch
        needed = [agent.instance_id]
        if agent.id in standbys and standbys[agent.id].status == "ready":
            needed.append(standbys[agent.id].instance_id)
        for instance_id in needed:
            if instance_id in instances and instance_id not in taken:
                state = instances[instance_id].state
                assert state in ALIVE, f"SEF terminated {instance_id}, which {agent.id} needs"

    live = [r.live_agent_id for r in replicas if r.live_agent_id]
    assert len(live) == len(set(live)), "an agent has two live standbys"
    ended = {r.instance_id: r.terminated_at for r in stage.rows("retirements", None)}
    for cutover in stage.rows("cutovers", None):
        old = cutover.old_instance_id
        # A cutover that was done is open again since its targets have changed.
        ended_at = ended.get(old)
        was_done = ended_at is not None and ended_at <= cutover.started_at
        if cutover.open_agent_id and not (cutover.traffic_moved_at or was_done or old in taken):
            assert old not in instances or instances[old].state in ALIVE, (
                f"SEF terminated {old} before {cutover.new_instance_id} had all targets"
            )

    wanted = {r.id for r in replicas if r.status in LIVE}
    open_ones = Counter(a.replica_id for a in attempts if a.status == "open")
    assert all(count == 1 for count in open_ones.values()), "a replica has two open launch attempts"
    reliefs = [r for r in replicas if r.relief_agent_id]
    assert sum(r in wanted for r in open_ones) <= len(live) + len(reliefs)

    failed = [a.error_code for a in attempts if a.status == "refused"]
    assert not UNKNOWN & {*failed}, "an unknown result was recorded as a refusal"

    tokens = Counter(i.tags[ATTEMPT_TAG] for i in ours(stage, instances))
    limits = {a.client_token: 1 for a in attempts}
    limits |= {call.client_token: call.size for call in stage.rows("launch_calls", None)}
    # A restored replica launches again, in another pool, under a token that was used since.
    limits |= dict.fromkeys(forgotten, len(instances))
    assert tokens.keys() <= limits.keys(), "an instance has no launch attempt"
    assert not [t for t, n in tokens.items() if n > limits[t]], (
        "two instances have one launch token"
    )


def check_when_quiet(
    stage: Stage,
    *,
    taken: Collection[str],
    poisoned: Collection[str],
    accepted: Collection[tuple[str, str]],
    observed: Mapping[tuple[str, str], Observed],
    belongings: Mapping[str, Belongings],
) -> None:
    """Check the invariants that hold without faults, when SEF has finished all work.

    Args:
        stage: the stage of the story.
        taken: instances that the story terminated, as AWS does, or stopped, as an operator does.
        poisoned: agents whose launches always fail.
        accepted: incident and type of every signal that was answered with success.
        observed: every acknowledged observation, by agent and pool.
        belongings: the cutover targets of each agent.
    """
    instances = stage.instances()
    events = stage.rows("system_events", None)
    replicas = stage.rows("replica_instances", None)
    retirements = stage.rows("retirements", None)
    incidents = stage.rows("incidents", None)
    holders = holders_of(stage, belongings)
    _check_nothing_is_open(stage, retirements, incidents, poisoned, holders)
    for agent in stage.rows("agents", None):
        _check_primary(agent, instances, incidents, replicas, poisoned)
        _check_promotions(agent, events)
    _check_running_instances(stage, instances, replicas)
    _check_terminations(instances, taken, replicas, retirements, events)
    _check_replica_events(replicas, events)
    _check_notifications(stage, incidents, events)
    _check_told_once(stage)
    check_belongings(stage, belongings)
    _check_status(stage, instances)
    rows = {(s.incident_id, s.signal_type) for s in stage.rows("spot_interruption_events", None)}
    assert set(accepted) <= rows, f"signals without a row: {set(accepted) - rows}"
    for (agent_id, pool), seen in observed.items():
        observations = [Observation(source, at, price) for (source, at), price in seen.items()]
        expected = clean_series(observations, stage.workers[0].rules)
        stored = stored_points(stage.url, agent_id, pool)
        assert stored == expected, f"the series of {agent_id} in {pool}"


def _check_nothing_is_open(
    stage: Stage,
    retirements: list[Any],
    incidents: list[Any],
    poisoned: Collection[str],
    holders: Collection[str],
) -> None:
    healthy = {r.id for r in stage.rows("replica_instances", None) if r.agent_id not in poisoned}
    for attempt in stage.rows("launch_attempts", None):
        assert attempt.status != "open" or attempt.replica_id not in healthy, (
            f"the launch {attempt.client_token} is still open"
        )
    for retirement in retirements:
        if retirement.instance_id in holders:
            continue
        assert retirement.terminated_at or retirement.terminate_after is None, (
            f"{retirement.instance_id} still runs: {retirement.kept_because}"
        )
    for incident in incidents:
        final = {"done", "released", "ignored"}
        if incident.agent_id in poisoned:
            final.add("needs_operator")
        assert incident.status in final, (
            f"{incident.kind} of {incident.agent_id} is {incident.status}: {incident.reason}"
        )
        assert incident.reason, f"{incident.id} is {incident.status} without a reason"


def _check_primary(
    agent: Any,
    instances: Mapping[str, SimulatedInstance],
    incidents: list[Any],
    replicas: list[Any],
    poisoned: Collection[str],
) -> None:
    serving = agent.instance_id in instances and instances[agent.instance_id].state == "running"
    standbys = [r for r in replicas if r.live_agent_id == agent.id]
    if agent.instance_id is None:
        return  # an operator has taken the agent out of service
    if agent.id in poisoned:
        escalated = [
            i for i in incidents if i.agent_id == agent.id and i.status == "needs_operator"
        ]
        assert serving or escalated, f"{agent.id} has no primary, and no incident reports it"
        return
    assert serving, f"the primary of {agent.id} does not run: {agent.instance_id}"
    wanted = ["ready"] if agent.manual_replica_enabled else []
    assert [s.status for s in standbys] == wanted, (
        f"the standby of {agent.id} is postponed: {agent.put_off_because}"
    )


def _check_promotions(agent: Any, events: list[Any]) -> None:
    done = ("failover_completed", "switchover_completed")
    epochs = [e.details["epoch"] for e in events if e.agent_id == agent.id and e.event_type in done]
    assert epochs == sorted(set(epochs)), f"{agent.id} was promoted twice for an epoch: {epochs}"
    assert agent.epoch >= max(epochs, default=1)


def _check_running_instances(
    stage: Stage, instances: Mapping[str, SimulatedInstance], replicas: list[Any]
) -> None:
    running: dict[str, set[str]] = defaultdict(set)
    for instance in ours(stage, instances):
        if instance.state in ALIVE:
            running[instance.tags[AGENT_TAG]].add(instance.id)
    claimed: dict[str, set[str]] = defaultdict(set)
    for replica in replicas:
        stopped = replica.instance_id in instances and (
            instances[replica.instance_id].state == "stopped"
        )
        if replica.status in CLAIMING and replica.instance_id and not stopped:
            claimed[replica.agent_id].add(replica.instance_id)
    assert running == claimed, "EC2 must run exactly the instances in the rows"


def _check_terminations(
    instances: Mapping[str, SimulatedInstance],
    taken: Collection[str],
    replicas: list[Any],
    retirements: list[Any],
    events: list[Any],
) -> None:
    """Check that SEF terminated released standbys, former primaries and orphans, and no others."""
    over = {r.instance_id for r in replicas if r.status in ("terminated", "failed")}
    retired = {r.instance_id for r in retirements if r.terminated_at}
    orphans = {e.details["instance_id"] for e in events if e.event_type == "orphan_terminated"}
    known = {r.instance_id for r in replicas} | retired | orphans
    for instance in instances.values():
        if instance.id in known and instance.state not in ALIVE:
            assert instance.id in {*over, *retired, *orphans, *taken}, (
                f"no reason for the end of {instance.id}"
            )
    for replica in replicas:
        if replica.status == "failed" and replica.instance_id not in {None, *taken}:
            assert replica.misses >= MIN_MISSES, f"SEF gave up {replica.instance_id}, which ran"
        if replica.instance_id in orphans and replica.instance_id not in taken:
            # The row of a replica handles its instance. Only an abandoned one becomes an orphan, or
            # one that was stopped, so that its row failed, and that was started again.
            assert replica.misses >= MIN_MISSES, f"{replica.instance_id} became an orphan"
    for instance_id in retired:
        assert instances[instance_id].state not in ALIVE, f"{instance_id} still runs"


def _check_notifications(stage: Stage, incidents: list[Any], events: list[Any]) -> None:
    """Check that every message arrived at least once, or that all its attempts failed.

    A message arrives by itself, or as a line of a digest.
    """
    taken = stage.ground.receiver.taken
    arrived = {(body["title"], body["message"]) for body in taken}
    digests = [body["message"] for body in taken if " digest of " in body["title"]]
    notes = {note.id: note for note in stage.rows("notifications", None)}
    deliveries = stage.rows("notification_deliveries", None)
    for delivery in deliveries:
        note = notes[delivery.notification_id]
        if delivery.status == "sent":
            line = f"{note.title.removeprefix('[SEF] ')} ({note.severity}): "
            line += note.body.partition("\n")[0]
            is_there = (note.title, note.body) in arrived or any(line in one for one in digests)
            assert is_there, f"{note.title} never arrived"
        else:
            assert delivery.attempts >= TRIES, f"{note.title} has attempts left: {delivery.error}"
    delivered = {delivery.notification_id for delivery in deliveries}
    assert notes.keys() == delivered, "a notification has no delivery"
    kinds = {(note.incident_id, note.kind) for note in notes.values()}
    planned = {i.id for i in incidents if i.kind in PLANNED}
    since = stage.clock() - timedelta(days=Settings().notification_retention_days)
    for event in events:
        if event.event_type != "failover_completed" or event.created_at < since:
            continue
        if event.incident_id not in planned:
            assert (event.incident_id, "switch") in kinds, f"no notification: {event.message}"
    for incident in incidents:
        if incident.status == "needs_operator" and incident.opened_at >= since:
            assert (incident.id, "operator") in kinds, (
                f"no notification to operators: {incident.id}"
            )


def _check_told_once(stage: Stage) -> None:
    """Check that no two messages about one incident say the same."""
    notes = stage.rows("notifications", None)
    texts = Counter((n.incident_id, n.kind, n.title, n.body) for n in notes if n.incident_id)
    twice = [text for text, count in texts.items() if count > 1]
    assert not twice, f"told twice: {twice}"


def _check_status(stage: Stage, instances: Mapping[str, SimulatedInstance]) -> None:
    """Check that everything that runs is in the status, with a reason."""
    running = [i for i in ours(stage, instances) if i.state in ALIVE]
    for agent in stage.rows("agents", None):
        status = stage.workers[0].get_agent_status(agent.id)
        shown = {agent.instance_id, (status["replica"] or {}).get("instance_id")}
        others = [*status["orphans"], *status["other_replicas"]]
        shown |= {other["instance_id"] for other in others}
        for former in status["former_primaries"]:
            assert former["reason"], f"{former['instance_id']} runs without a reason"
            shown.add(former["instance_id"])
        hidden = {i.id for i in running if i.tags[AGENT_TAG] == agent.id} - shown
        assert not hidden, f"{agent.id} has instances that its status does not show: {hidden}"


def _check_replica_events(replicas: list[Any], events: list[Any]) -> None:
    recorded = {
        (e.details["replica_id"], e.event_type)
        for e in events
        if e.event_type.startswith("replica_") and e.details
    }
    # The rows do not know the launch of an instance that was adopted, only its end.
    adopted = {
        e.details["instance_id"] for e in events if e.event_type == "instance_adopted" and e.details
    }
    for replica in replicas:
        expected = {"launching", replica.status}
        if replica.instance_id in adopted:
            expected = {replica.status} & {"terminated", "failed"}
        for status in expected:
            assert (replica.id, f"replica_{status}") in recorded, (
                f"{replica.id} {status} has no event"
            )
