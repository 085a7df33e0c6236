"""A signal of AWS: recorded under its incident, decided on, acted on, answered."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent, read_agent, update_agent
from sef.context import Context
from sef.failover.cutover.rows import set_cutover_deadline
from sef.failover.incidents.pool_history import assess_primary
from sef.failover.incidents.rows import (
    Incident,
    create_incident,
    incident_of_signal,
    latest_failover,
    latest_incident,
    open_incident,
    open_incident_of_primary,
    record_signal,
    signal_was_received,
    update_incident,
)
from sef.failover.policy import goal_for, higher_goal
from sef.failover.reconcile import reconcile_agent
from sef.failover.signal_answers import answer
from sef.failover.snapshot import Snapshot
from sef.failover.standbys.backoff import cool_down_interrupted_pool, cool_down_pool_of
from sef.failover.standbys.rows import (
    Replica,
    current_replicas,
    live_standby,
    move_replica,
)
from sef.notifications.events import Event, write_events
from sef.terms import (
    NOTICE,
    Goal,
    IncidentStatus,
    NotificationKind,
    ReplicaStatus,
    Signal,
    SignalType,
)

AFTERMATH = timedelta(seconds=60)
"""How long after its announced end an instance may still be repeating its notice."""


@dataclass(frozen=True, slots=True)
class RecordedSignal:
    incident_id: str
    about_standby: bool = False
    is_settled: bool = False
    """The incident is over, and the signal has told nothing new of it: there is nothing to do."""
    snapshot: Snapshot | None = None
    """What the transaction has read and written of the agent, if that is all there is to know."""


def receive_signal(ctx: Context, agent_id: str, signal: Signal) -> dict[str, Any]:
    """Take a signal; it is committed before anything is done about it.

    A repeat changes nothing and is answered with what became of the incident.

    Raises:
        AgentNotFound: an interruption registers nobody.
    """
    now = ctx.clock()
    received = ctx.database.write(record, ctx, agent_id, signal, now)
    if not received.is_settled:
        reconcile_agent(ctx, agent_id, snapshot=received.snapshot)
    return ctx.database.read(answer, received.incident_id, about_standby=received.about_standby)


def record(
    connection: Connection, ctx: Context, agent_id: str, signal: Signal, now: datetime
) -> RecordedSignal:
    agent = read_agent(connection, agent_id, lock=True)
    named = signal.instance_id
    if (
        agent.instance_id is None
        and named is not None
        and latest_incident(connection, agent_id, named) is None
    ):
        update_agent(connection, agent, now, instance_id=named)
        agent = read_agent(connection, agent_id)
    subject = signal.instance_id or _resolve_subject(connection, agent, signal, now)
    if subject == agent.subject:
        incident = _incident_of_primary(connection, agent, signal, now)
    else:
        standby = live_standby(connection, agent_id)
        if standby is not None and subject == standby.instance_id:
            about = _signal_standby(connection, ctx, agent, standby, signal, now)
            return RecordedSignal(about, about_standby=True)
        incident = _incident_of_another(connection, agent, subject, signal, now)
    noted = _note_signal(connection, ctx, agent, incident, signal, now)
    snapshot = None
    if noted.is_open and subject == agent.subject and agent.not_before is None:
        snapshot = Snapshot(agent, current_replicas(connection, agent_id), noted)
    has_changed = noted.version != incident.version
    return RecordedSignal(
        incident.id, is_settled=not (noted.is_open or has_changed), snapshot=snapshot
    )


def _incident_of_primary(
    connection: Connection, agent: Agent, signal: Signal, now: datetime
) -> Incident:
    known = latest_incident(connection, agent.id, agent.subject)
    # What was ignored came before the instance was registered, and counts when it is repeated.
    if (
        known is not None
        and known.status != IncidentStatus.IGNORED
        and (known.is_open or signal_was_received(connection, known, signal))
    ):
        return known
    other = open_incident(connection, agent.id)
    if other is not None:
        if other.kind.is_planned:
            outcome, why = IncidentStatus.RELEASED, f"overtaken by a {signal.type}"
        else:
            outcome, why = IncidentStatus.DONE, "the agent has another primary by now"
        update_incident(connection, other, status=outcome, closed_at=now, reason=why)
        said = f"incident is {outcome}: {why}"
        _record_event(
            connection,
            agent,
            other,
            "incident_closed",
            said,
            now,
            notification=NotificationKind.OUTCOME,
        )
    return open_incident_of_primary(connection, agent, now)


def _incident_of_another(
    connection: Connection, agent: Agent, subject: str, signal: Signal, now: datetime
) -> Incident:
    """The incident of a former primary, or of an instance that is not this agent's."""
    known = latest_incident(connection, agent.id, subject)
    if known is not None:
        return known
    return create_incident(
        connection,
        agent,
        subject,
        instance_id=signal.instance_id,
        pool_id=None,
        now=now,
        status=IncidentStatus.IGNORED,
        reason=f"{subject} is not the primary of {agent.id}",
    )


def _signal_standby(
    connection: Connection,
    ctx: Context,
    agent: Agent,
    standby: Replica,
    signal: Signal,
    now: datetime,
) -> str:
    """A standby that is being lost itself is never promoted: it makes way for another."""
    reason = f"AWS announced a {signal.type} for the standby itself"
    incident = create_incident(
        connection,
        agent,
        str(standby.instance_id),
        instance_id=standby.instance_id,
        pool_id=standby.pool_id,
        now=now,
        status=IncidentStatus.DONE,
        reason=reason,
    )
    record_signal(connection, incident, signal, now)
    update_incident(connection, incident, **_signal_columns(incident, signal, now))
    cool_down_pool_of(connection, standby, signal.type, now, ctx.settings)
    move_replica(connection, standby, ReplicaStatus.RELEASING, reason, now, severity="warning")
    update_agent(connection, agent, now, not_before=None)
    return incident.id


def _note_signal(
    connection: Connection,
    ctx: Context,
    agent: Agent,
    incident: Incident,
    signal: Signal,
    now: datetime,
) -> Incident:
    """Record the signal and, for a primary that is still to be replaced, decide.

    Returns:
        The incident as it is then.
    """
    recorded = record_signal(connection, incident, signal, now)
    is_news = recorded.is_news
    values = _signal_columns(incident, signal, now) if is_news else {}
    lost = incident.instance_id
    if lost is not None and lost != agent.instance_id and values.get("deadline"):
        set_cutover_deadline(connection, agent.id, lost, values["deadline"], now)
    if not incident.is_open:
        if recorded.is_first:
            said = f"{signal.type} for {incident.subject}: {_why_closed(incident)}"
            _record_event(connection, agent, incident, "signal_ignored", said, now)
        if not values:
            return incident
        return update_incident(connection, incident, **values)
    if not is_news and incident.goal is not Goal.MONITOR:
        return incident  # what a repeat could ask for is wanted already
    score = None
    if signal.type is SignalType.REBALANCE:
        score = assess_primary(connection, ctx, agent, now)
    decision = goal_for(signal.type, score, ctx.settings.rebalance_risk_threshold)
    goal = higher_goal(incident.goal, decision.goal)
    if goal is decision.goal:
        values["reason"] = decision.reason
    if score is not None:
        values["risk_score"] = score.score
    inputs = {
        "signal": signal.type,
        "mode": agent.mode,
        "risk": asdict(score) if score else None,
        "threshold": ctx.settings.rebalance_risk_threshold,
    }
    values |= {"goal": goal, "inputs": inputs}
    noted = update_incident(connection, incident, **values)
    if is_news and agent.not_before is not None:
        # A new signal is a reason to try at once what was put off; a repeat is not.
        update_agent(connection, agent, now, not_before=None)
    if recorded.is_first or goal is not incident.goal:
        said = f"{signal.type} for {incident.subject}: {decision.reason}"
        told = inputs | {"goal_before": incident.goal, "goal": goal}
        kind = signal.type.replace("-", "_")
        notification = (
            NotificationKind.RECOMMENDATION if goal is Goal.MONITOR else NotificationKind.DETECTION
        )
        _record_event(connection, agent, incident, kind, said, now, told, notification)
    if recorded.is_first and signal.type is SignalType.TERMINATION:
        # Last, since all of a storm in this pool have that row in common.
        cool_down_interrupted_pool(connection, agent.pool_id, now, ctx.settings)
    return noted


def _resolve_subject(connection: Connection, agent: Agent, signal: Signal, now: datetime) -> str:
    """Whom a signal that names no instance is about.

    Mostly the primary. But an agent that repeats its notice must not bring down instance after
    instance: what was announced before, and what comes while the former primary may still be
    announcing its end, is about that one.
    """
    before = incident_of_signal(connection, agent.id, signal)
    if before is not None:
        return before.subject
    last = latest_failover(connection, agent.id)
    if last is not None and last.deadline is not None and now <= last.deadline + AFTERMATH:
        return last.subject
    return agent.subject


def _signal_columns(incident: Incident, signal: Signal, now: datetime) -> dict[str, Any]:
    """The columns of an incident that say which signals it has had, and by when it is over."""
    if signal.type is SignalType.REBALANCE:
        # The standby's time counts from the last recommendation that AWS gave, not from the last
        # time it was told: the metadata service shows one for as long as the instance lives.
        # One that comes behind the notice has announced nothing.
        return {} if incident.termination_at is not None else {"rebalance_at": now}
    announced = signal.terminates_at
    deadline = announced if announced is not None and announced > now else now + NOTICE
    if incident.deadline is not None:
        deadline = min(deadline, incident.deadline)
    return {"termination_at": incident.termination_at or now, "deadline": deadline}


def _why_closed(incident: Incident) -> str:
    if incident.new_instance_id is not None:
        return f"it was replaced by {incident.new_instance_id} already"
    return incident.reason


def _record_event(
    connection: Connection,
    agent: Agent,
    incident: Incident,
    event_type: str,
    message: str,
    now: datetime,
    details: dict[str, Any] | None = None,
    notification: NotificationKind | None = None,
) -> None:
    event = Event(
        event_type,
        message,
        agent.id,
        details=details,
        incident_id=incident.id,
        notification=notification,
    )
    write_events(connection, [event], now)
