"""A signal of AWS: recorded under its incident, decided on, acted on, answered."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent, read_agent, update_agent
from sef.context import Context
from sef.failover.cutover.rows import set_cutover_deadline
from sef.failover.explain.dry_run import dry_run
from sef.failover.incidents import pool_history, risk
from sef.failover.incidents.risk import Risk
from sef.failover.incidents.rows import (
    Incident,
    create_incident,
    find_incident,
    incident_of_signal,
    latest_failover,
    latest_incident,
    open_incident,
    open_incident_of_primary,
    read_incident,
    record_signal,
    signal_was_received,
    update_incident,
)
from sef.failover.policy import goal_for, higher_goal
from sef.failover.reconcile import Snapshot, reconcile_agent
from sef.failover.standbys.backoff import cool_down_interrupted_pool, cool_down_pool_of
from sef.failover.standbys.rows import (
    Replica,
    current_replicas,
    latest_failed_replica,
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
    parse_pool,
)

PRICES_LOOKED_AT = timedelta(hours=24)
AFTERMATH = timedelta(seconds=60)
"""How long after its announced end an instance may still be repeating its notice."""


class Action(StrEnum):
    """What a signal led to, as the answer to it says."""

    MONITOR = "monitor"  # the risk is too low for a standby
    LAUNCHING = "replica_launching"  # a standby is on its way; promoted when ready if need be
    STANDBY_READY = "standby_ready"  # it waits for a termination, auto-switch or an operator
    PROMOTED = "promoted"  # the agent has a new primary
    WAITING = "waiting"  # a standby is needed and cannot be had now; it is tried again
    STANDBY_REPLACED = "standby_replaced"  # the signal was about the standby itself
    RELEASED = "released"  # over: no termination followed
    IGNORED = "ignored"  # the instance is not, or no longer, the agent's


@dataclass(frozen=True, slots=True)
class RecordedSignal:
    incident_id: str
    about_standby: bool = False
    is_settled: bool = False
    """The incident is over, and the signal has told nothing new of it: there is nothing to do."""
    seen: Snapshot | None = None
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
        reconcile_agent(ctx, agent_id, seen=received.seen)
    return ctx.database.read(_answer, received)


def dry_run_signal(ctx: Context, agent_id: str, signal: Signal) -> dict[str, Any]:
    """What `receive` would answer and do; nothing is changed.

    Raises:
        AgentNotFound: as `receive`.
    """
    now = ctx.clock()
    found = dry_run(
        ctx,
        agent_id,
        lambda c: record(c, ctx, agent_id, signal, now),
        _rehearsed,
    )
    answer = found.answer
    told = ctx.database.read(find_incident, answer["incident_id"])
    return answer | {
        "incident_id": told.id if told else None,  # it would be opened
        **found.course,
    }


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
    seen = None
    if noted.is_open and subject == agent.subject and agent.not_before is None:
        seen = Snapshot(agent, current_replicas(connection, agent_id), noted)
    has_changed = noted.version != incident.version
    return RecordedSignal(incident.id, is_settled=not (noted.is_open or has_changed), seen=seen)


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
            moment=NotificationKind.OUTCOME,
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
    score = _risk(connection, ctx, agent, now) if signal.type is SignalType.REBALANCE else None
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
        moment = (
            NotificationKind.RECOMMENDATION if goal is Goal.MONITOR else NotificationKind.DETECTION
        )
        _record_event(connection, agent, incident, kind, said, now, told, moment)
    if recorded.is_first and signal.type is SignalType.TERMINATION:
        # Last, since all of a storm in this pool have that row in common.
        cool_down_interrupted_pool(connection, agent.pool_id, now, ctx.settings)
    return noted


def _risk(connection: Connection, ctx: Context, agent: Agent, now: datetime) -> Risk:
    settled_after = timedelta(seconds=ctx.settings.standby_ttl)
    here, elsewhere = pool_history.history_and_fleet(connection, agent.pool_id, now, settled_after)
    pool = parse_pool(agent.pool_id)
    return risk.assess(
        here,
        elsewhere,
        pool_history.recent_prices(connection, agent.id, agent.pool_id, now - PRICES_LOOKED_AT),
        ctx.on_demand_prices.get(pool.instance_type) if pool else None,
    )


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
    moment: NotificationKind | None = None,
) -> None:
    event = Event(
        event_type,
        message,
        agent.id,
        details=details,
        incident_id=incident.id,
        moment=moment,
    )
    write_events(connection, [event], now)


def _answer(connection: Connection, received: RecordedSignal) -> dict[str, Any]:
    incident = read_incident(connection, received.incident_id)
    about_standby = received.about_standby
    standby, failed = None, None
    if incident.is_open or about_standby:
        standby = live_standby(connection, incident.agent_id)
    if incident.is_open and standby is None:
        failed = latest_failed_replica(connection, incident.agent_id)
    replica_id = incident.replica_id or (standby.id if standby and incident.is_open else None)
    if about_standby and standby is not None:
        replica_id = standby.id
    action, message = _outcome(incident, standby, failed, about_standby)
    return {
        "status": "success",
        "action": action,
        "incident_id": incident.id,
        "risk_score": incident.risk_score,
        "replica_id": replica_id,
        "new_instance_id": incident.new_instance_id,
        "failover_time_ms": incident.failover_time_ms,
        "message": message,
    }


def _rehearsed(connection: Connection, received: RecordedSignal) -> dict[str, Any]:
    answer = _answer(connection, received)
    incident = read_incident(connection, received.incident_id)
    inputs = incident.inputs or {}
    return {
        "status": "success",
        "dry_run": True,
        "action": answer["action"],
        "message": answer["message"],
        "incident_id": incident.id,
        "goal": incident.goal,
        "reason": incident.reason,
        "risk": inputs.get("risk"),
        "threshold": inputs.get("threshold"),
        "mode": inputs.get("mode"),
    }


def _outcome(
    incident: Incident, standby: Replica | None, failed: Replica | None, about_standby: bool
) -> tuple[Action, str]:
    if about_standby:
        return Action.STANDBY_REPLACED, f"{incident.reason}; another takes its place"
    if incident.new_instance_id is not None:
        return Action.PROMOTED, f"{incident.new_instance_id} replaced {incident.subject}"
    if not incident.is_open:
        is_over = incident.status == IncidentStatus.RELEASED
        return (Action.RELEASED if is_over else Action.IGNORED), incident.reason
    if incident.goal is Goal.MONITOR:
        return Action.MONITOR, incident.reason
    if standby is None:
        why = f" ({failed.reason})" if failed else ""
        return Action.WAITING, f"{incident.reason}; no standby now{why}, it is tried again"
    if standby.status is ReplicaStatus.READY:
        return Action.STANDBY_READY, f"{incident.reason}; {standby.instance_id} stands by"
    if standby.instance_id is None and incident.status is IncidentStatus.NEEDS_OPERATOR:
        why = f" ({incident.obstacle})" if incident.obstacle else ""
        said = f"{incident.reason}; none can be launched now{why}, it is tried again"
        return Action.WAITING, said
    then = "promoted when ready" if incident.goal is Goal.SWITCH else "kept as a standby"
    name = standby.instance_id or "a standby"
    return Action.LAUNCHING, f"{incident.reason}; {name} is launching, {then}"
