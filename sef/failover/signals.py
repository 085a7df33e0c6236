"""Receive a signal of AWS for an agent.

1. Record the signal (`record`), in one transaction that locks the agent:

   a. If SEF does not know the agent's instance yet, take the instance that the signal names.
   b. Find the instance that the signal is about, called the subject of its incident.
   c. Find or open the incident. The subject is the primary, the standby, or another instance.
      A signal about the standby ends here: SEF replaces the standby.
   d. Store the signal under the incident.
   e. While the incident is open, let the signal raise its goal (`sef.failover.policy`).

2. Reconcile the agent (`sef.failover.reconcile`), unless the signal left nothing to do.
3. Answer with the state of the incident by then (`sef.failover.signal_answers`).

The signal is committed before SEF acts on it. A repeated signal changes nothing, and its answer is
the state of the incident again.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent, instance_role, learn_primary, read_agent, update_agent
from sef.context import Context
from sef.failover.cutover.rows import look_again
from sef.failover.incidents.matching import (
    ReceivedSignal,
    incident_of_other_instance,
    incident_of_primary,
    resolve_subject,
)
from sef.failover.incidents.pool_history import assess_primary
from sef.failover.incidents.rows import (
    Incident,
    create_incident,
    latest_incident,
    update_incident,
)
from sef.failover.incidents.signal_rows import SignalUpdate, end_after, record_signal
from sef.failover.policy import goal_for, higher_goal
from sef.failover.reconcile import reconcile_agent
from sef.failover.signal_answers import answer
from sef.failover.snapshot import Snapshot, with_spares
from sef.failover.standbys.backoff import cool_down_interrupted_pool, cool_down_pool_of
from sef.failover.standbys.rows import (
    Replica,
    change_replica,
    current_replicas,
    move_replica,
    standby_with_instance,
)
from sef.failover.succession import learn_from_signal
from sef.identity import Door, may_become_primary
from sef.notifications.events import Event, write_events
from sef.terms import (
    Goal,
    IncidentStatus,
    NotificationKind,
    ReplicaStatus,
    Signal,
    SignalType,
)


@dataclass(frozen=True, slots=True)
class RecordedSignal:
    """A signal in the database, and the work that it may have left.

    Attributes:
        incident_id: the incident that the signal is stored under.
        about_standby: the subject was the standby, and SEF replaces it.
        may_have_work: False if the incident is closed and the signal changed nothing in it.
        snapshot: the agent's rows as the transaction left them. None: they have to be read again.
    """

    incident_id: str
    about_standby: bool = False
    may_have_work: bool = True
    snapshot: Snapshot | None = None


def receive_signal(ctx: Context, agent_id: str, signal: Signal) -> dict[str, Any]:
    """Record a signal, act on it, and return the answer to it.

    Raises:
        AgentNotFound: the agent is not registered. A signal registers no agent.
    """
    now = ctx.clock()
    learn_from_signal(ctx, agent_id, signal, now)
    recorded = ctx.database.write(record, ctx, agent_id, signal, now)
    if recorded.may_have_work:
        reconcile_agent(ctx, agent_id, snapshot=recorded.snapshot)
    return ctx.database.read(answer, recorded.incident_id, about_standby=recorded.about_standby)


def record(
    connection: Connection, ctx: Context, agent_id: str, signal: Signal, now: datetime
) -> RecordedSignal:
    """Store a signal under its incident and decide the incident's goal."""
    agent = read_agent(connection, agent_id, lock=True)
    agent = _with_named_instance(connection, agent, signal, now)
    received = ReceivedSignal(signal, agent, now)
    subject = signal.instance_id or resolve_subject(connection, received)
    is_of_primary = agent.is_subject(subject)
    if is_of_primary:
        memory = timedelta(seconds=ctx.settings.standby_ttl_seconds)
        incident = incident_of_primary(connection, received, memory)
    else:
        standby = standby_with_instance(connection, agent_id, subject)
        if standby is not None:
            incident = _replace_standby(connection, ctx, received, standby)
            return RecordedSignal(incident.id, about_standby=True)
        incident = incident_of_other_instance(connection, received, subject)
    updated = _store_signal(connection, ctx, received, incident)
    has_changed = updated.version != incident.version
    return RecordedSignal(
        incident.id,
        may_have_work=updated.is_open or has_changed,
        snapshot=_reusable_snapshot(connection, agent, updated) if is_of_primary else None,
    )


# a. The agent's instance, if SEF does not know it yet


def _with_named_instance(
    connection: Connection, agent: Agent, signal: Signal, now: datetime
) -> Agent:
    """Store the instance that the signal names as the primary of an agent without a known one.

    Standbys and former primaries are not stored (`sef.identity`).
    """
    named = signal.instance_id
    if agent.instance_id is not None or named is None:
        return agent
    if not may_become_primary(Door.SIGNAL, instance_role(connection, agent.id, named)):
        return agent
    return learn_primary(connection, agent, named, None, now)


# c. The incident of the standby


def _replace_standby(
    connection: Connection, ctx: Context, received: ReceivedSignal, standby: Replica
) -> Incident:
    """Record a signal of AWS for a standby, or for its relief; SEF launches another.

    After a notice it is released at once, and never promoted. After a recommendation it stays until
    another runs: it is better than none. A repeated recommendation changes nothing.
    """
    agent, signal, now = received.agent, received.signal, received.now
    incident = latest_incident(connection, agent.id, str(standby.instance_id))
    if incident is None:
        incident = create_incident(
            connection,
            agent,
            str(standby.instance_id),
            instance_id=standby.instance_id,
            pool_id=standby.pool_id,
            now=now,
            status=IncidentStatus.DONE,
        )
    signals = record_signal(connection, incident, signal, now)
    if not signals.is_news:
        return incident
    reason = f"AWS sent a {signal.type} for the standby"
    columns = _signal_columns(incident, signal, now)
    incident = update_incident(
        connection, incident, status=IncidentStatus.DONE, reason=reason, **columns
    )
    if signal.type is SignalType.TERMINATION:
        move_replica(connection, standby, ReplicaStatus.RELEASING, reason, now, severity="warning")
    else:
        change_replica(connection, standby, recommended_at=now)
    if signals.is_first:
        cool_down_pool_of(connection, standby, signal.type, now, ctx.settings)
        update_agent(connection, agent, now, not_before=None)
    if signals.is_first and signal.type is SignalType.REBALANCE:
        message = f"{reason} {standby.instance_id}; SEF keeps it until another runs"
        recommended = Event(
            "standby_recommended",
            message,
            agent_id=agent.id,
            severity="warning",
            incident_id=incident.id,
        )
        write_events(connection, [recommended], now)
    return incident


# d. The signal under its incident


def _store_signal(
    connection: Connection, ctx: Context, received: ReceivedSignal, incident: Incident
) -> Incident:
    """Store the signal under the incident, and let it raise the goal of an open incident.

    Returns:
        The incident, with what the signal changed in it.
    """
    agent, signal, now = received.agent, received.signal, received.now
    update = record_signal(connection, incident, signal, now)
    columns = _signal_columns(incident, signal, now) if update.is_news else {}
    signalled = incident.instance_id
    if signalled is not None and signalled != agent.instance_id and columns.get("deadline"):
        # The end of a former primary is also the deadline of the targets that are still with it.
        look_again(connection, agent.id, now)
    if incident.is_open:
        return _raise_goal(connection, ctx, received, incident, update, columns)
    if update.is_first:
        message = f"{signal.type} for {incident.subject}: {_why_closed(incident)}"
        ignored = Event("signal_ignored", message, agent_id=agent.id, incident_id=incident.id)
        write_events(connection, [ignored], now)
    return update_incident(connection, incident, **columns) if columns else incident


def _signal_columns(incident: Incident, signal: Signal, now: datetime) -> dict[str, Any]:
    """Return the columns of an incident that a new signal sets: arrival and deadline.

    A new recommendation prolongs the time for which a standby is kept. A repeated one does not: the
    metadata service shows the same recommendation for as long as the instance lives. A
    recommendation after the notice announces nothing, and sets no column.

    The deadline is the earliest end that AWS has announced. For a signal without an end, or with an
    end in the past, it is two minutes from now.
    """
    if signal.type is SignalType.REBALANCE:
        return {} if incident.termination_at is not None else {"rebalance_at": now}
    deadline = end_after(signal.terminates_at, now)
    if incident.deadline is not None:
        deadline = min(deadline, incident.deadline)
    return {"termination_at": incident.termination_at or now, "deadline": deadline}


def _why_closed(incident: Incident) -> str:
    if incident.new_instance_id is not None:
        return f"{incident.new_instance_id} has already replaced it"
    return incident.reason


# e. The goal


def _raise_goal(
    connection: Connection,
    ctx: Context,
    received: ReceivedSignal,
    incident: Incident,
    update: SignalUpdate,
    columns: dict[str, Any],
) -> Incident:
    """Decide on the signal, and raise the goal of an open incident if the decision is higher.

    Args:
        columns: the columns that the signal sets anyway.
    """
    agent, signal, now = received.agent, received.signal, received.now
    if not update.is_news and incident.goal is not Goal.MONITOR:
        return (
            incident  # the risk may have risen since: a repeat can raise `monitor`, no other goal
        )
    risk = None
    if signal.type is SignalType.REBALANCE:
        risk = assess_primary(connection, ctx, agent, now)
    threshold = ctx.settings.rebalance_risk_threshold
    decision = goal_for(signal.type, risk, threshold)
    goal = higher_goal(incident.goal, decision.goal)
    inputs = {
        "signal": signal.type,
        "mode": agent.mode,
        "risk": asdict(risk) if risk else None,
        "threshold": threshold,
    }
    columns = columns | {"goal": goal, "inputs": inputs}
    if goal is decision.goal:
        columns["reason"] = decision.reason
    if risk is not None:
        columns["risk_score"] = risk.score
    updated = update_incident(connection, incident, **columns)
    if update.is_news and agent.not_before is not None:
        # A new signal ends the agent's pause, so that SEF acts at once; a repeat does not.
        update_agent(connection, agent, now, not_before=None)
    if update.is_first or goal is not incident.goal:
        is_known = incident.goal is Goal.SWITCH and signal.type is SignalType.REBALANCE
        kind = NotificationKind.DETECTION
        if goal is Goal.MONITOR:
            kind = NotificationKind.RECOMMENDATION
        decided = Event(
            signal.type.replace("-", "_"),
            f"{signal.type} for {incident.subject}: {decision.reason}",
            agent_id=agent.id,
            details=inputs | {"goal_before": incident.goal, "goal": goal},
            incident_id=incident.id,
            notification=None if is_known else kind,
        )
        write_events(connection, [decided], now)
    if update.is_first and signal.type is SignalType.TERMINATION:
        # Last: all signals of a storm in this pool write the row of its cooldown.
        cool_down_interrupted_pool(connection, agent.pool_id, now, ctx.settings)
    return updated


def _reusable_snapshot(connection: Connection, agent: Agent, incident: Incident) -> Snapshot | None:
    """Return the agent's rows, to save the reconciler a read.

    None: the reconciler must read the rows itself. Either the signal ended a pause, so that `agent`
    is out of date; or the incident is closed, and another one may be open.
    """
    if not incident.is_open or agent.not_before is not None:
        return None
    snapshot = Snapshot(agent, current_replicas(connection, agent.id), incident)
    return with_spares(connection, snapshot)
