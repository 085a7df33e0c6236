"""Making a standby the primary: one transaction, one compare-and-swap of the agent."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.agents import Agent, update_agent
from sef.clock import Clock, iso
from sef.config import Settings
from sef.failover.cutover.rows import begin_cutover
from sef.failover.incidents import pool_history, risk
from sef.failover.incidents.rows import Incident, complete_failover, update_incident
from sef.failover.incidents.summary import IncidentSummary, seconds, summary
from sef.failover.standbys import backoff
from sef.failover.standbys.retirements import plan_retirement
from sef.failover.standbys.rows import Replica, move_replica
from sef.notifications.events import Event
from sef.notifications.outbox import Notification
from sef.terms import IncidentStatus, Market, NotificationKind, ReplicaStatus


@dataclass(frozen=True, slots=True)
class Promotion:
    old_instance_id: str | None
    new_instance_id: str
    epoch: int
    replica_id: str
    incident_id: str | None
    failover_time_ms: int | None
    is_all: bool
    """Nothing is to follow it now: no cutover, no termination, no other standby."""


def promote(
    connection: Connection,
    agent: Agent,
    standby: Replica,
    incident: Incident | None,
    reason: str,
    clock: Clock,
    *,
    retire_after: timedelta | None,
    settings: Settings,
    unchecked: str | None = None,
) -> Promotion:
    """Make a ready standby the agent's primary; the agent was read in this transaction.

    The epoch moves on with it, so that nothing which knows the old primary can undo it. The old
    primary is terminated after `retire_after` and once what belongs to the agent has followed, or
    left to AWS and its operator if None.

    A new primary in a risky pool has a standby of its own for a while.

    `unchecked` says why EC2 was not asked whether the standby runs, if it was not.

    Raises:
        IllegalTransition: the standby is not ready.
        Stale: the agent, the standby or the incident has changed since it was read.
    """
    if standby.instance_id is None:
        raise ValueError(f"{standby.id} has no instance to promote")
    now = clock()
    probation_until = _probation(connection, standby, now, settings)
    update_agent(
        connection,
        agent,
        now,
        instance_id=standby.instance_id,
        pool_id=standby.pool_id,
        epoch=agent.epoch + 1,
        not_before=None,
        probation_until=probation_until,
    )
    old = agent.instance_id
    if old is not None and retire_after is not None:
        incident_id = incident.id if incident else None
        plan_retirement(connection, agent.id, old, reason, now + retire_after, incident_id)
    begin_cutover(
        connection,
        agent,
        standby.instance_id,
        standby.pool_id,
        incident.id if incident else None,
        incident.deadline if incident else None,
        now,
    )
    milliseconds = None
    if incident is not None:
        milliseconds = _conclude(connection, incident, standby, now, clock())
    took = "" if milliseconds is None else f" in {seconds(milliseconds)}"
    deadline = incident.deadline if incident else None
    event = Event(
        "switchover_completed" if incident is None else "failover_completed",
        f"{standby.instance_id} replaces {old or 'the unknown primary'}{took}: {reason}",
        agent.id,
        details={
            "old_instance_id": old,
            "new_instance_id": standby.instance_id,
            "replica_id": standby.id,
            "epoch": agent.epoch + 1,
            "failover_time_ms": milliseconds,
            "mode": agent.mode,
            "goal": incident.goal if incident else None,
            "deadline": iso(deadline),
            "seconds_left": round((deadline - now).total_seconds(), 3) if deadline else None,
            "unseen": unchecked,
        },
        incident_id=incident.id if incident else None,
        notification=None
        if incident is None or incident.kind.is_planned
        else NotificationKind.SWITCH,
    )
    notes = []
    if incident is not None and agent.cutover is None:
        # Else it is over when all that belongs to the agent has followed: see sef/cutover.py.
        then = f"{old} is left to AWS or its operator"
        if retire_after is not None:
            then = f"{old} is terminated, {retire_after.total_seconds():.0f} s from now"
        said = _summary(incident, standby, milliseconds, now)
        notes.append(
            Notification(
                NotificationKind.OUTCOME,
                event.type,
                f"{incident.kind} is {IncidentStatus.DONE}: {said}" + (f"; {then}" if old else ""),
                agent.id,
                incident.id,
            )
        )
    move_replica(
        connection, standby, ReplicaStatus.PROMOTED, reason, now, events=[event], notes=notes
    )
    return Promotion(
        old,
        standby.instance_id,
        agent.epoch + 1,
        standby.id,
        incident.id if incident else None,
        milliseconds,
        is_all=agent.cutover is None
        and (old is None or retire_after is None)
        and probation_until is None
        and not agent.manual_replica_enabled,
    )


def _probation(
    connection: Connection, standby: Replica, now: datetime, settings: Settings
) -> datetime | None:
    """Until when the new primary has a standby of its own, since its pool is known to be risky."""
    if (
        standby.market is not Market.SPOT
        or standby.pool_id is None
        or not settings.probation_seconds
    ):
        return None
    settled_after = timedelta(seconds=settings.standby_ttl_seconds)
    history = pool_history.history_of(connection, standby.pool_id, now, settled_after)
    score = risk.assess(history).score
    is_risky = history.terminations > 0 and score >= settings.rebalance_risk_threshold
    if is_risky or (standby.pool_id, Market.SPOT) in backoff.pools_on_cooldown(connection, now):
        return now + timedelta(seconds=settings.probation_seconds)
    return None


def _summary(incident: Incident, standby: Replica, milliseconds: int | None, now: datetime) -> str:
    left = None
    if incident.deadline is not None and incident.kind.is_announced:
        left = (incident.deadline - now).total_seconds()
    return summary(
        IncidentSummary(
            incident.kind,
            IncidentStatus.DONE,
            incident.goal,
            incident.reason,
            None,
            incident.subject,
            standby.instance_id,
            standby.pool_id,
            milliseconds,
            left,
        )
    )


def _conclude(
    connection: Connection, incident: Incident, standby: Replica, now: datetime, ends: datetime
) -> int:
    milliseconds = complete_failover(connection, incident, incident.caused_by, standby.id, ends)
    update_incident(
        connection,
        incident,
        status=IncidentStatus.DONE,
        closed_at=now,
        replica_id=standby.id,
        new_instance_id=standby.instance_id,
        failover_time_ms=milliseconds,
    )
    return milliseconds
