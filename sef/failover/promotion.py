"""Promote a standby to primary: one transaction, one compare-and-swap of the agent."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.agents import Agent
from sef.clock import Clock, iso
from sef.config import Settings
from sef.failover.cutover.begin import begin_cutover
from sef.failover.incidents import pool_history, risk
from sef.failover.incidents.rows import (
    Incident,
    latest_incident,
    open_incident,
    update_incident,
)
from sef.failover.incidents.signal_rows import complete_failover
from sef.failover.incidents.summary import IncidentSummary, seconds, summary
from sef.failover.primaries import change_primary
from sef.failover.standbys import backoff
from sef.failover.standbys.rows import Replica, move_replica
from sef.notifications.events import Event, write_events
from sef.notifications.outbox import Notification
from sef.terms import Goal, IncidentStatus, Market, NotificationKind, ReplicaStatus


@dataclass(frozen=True, slots=True)
class Successor:
    """The instance to promote: a ready standby, or a spare instance that still runs.

    Attributes:
        replica: the row of an instance that SEF launched.
    """

    instance_id: str
    pool_id: str | None
    market: Market | None
    replica: Replica | None

    @property
    def replica_id(self) -> str | None:
        return self.replica.id if self.replica else None


def standby_as_successor(standby: Replica) -> Successor:
    """Return a standby as the instance to promote."""
    if standby.instance_id is None:
        raise ValueError(f"{standby.id} has no instance to promote")
    return Successor(standby.instance_id, standby.pool_id, standby.market, standby)


@dataclass(frozen=True, slots=True)
class Promotion:
    """The result of a promotion."""

    old_instance_id: str | None
    new_instance_id: str
    epoch: int
    replica_id: str | None
    """None: a former primary that SEF did not launch was promoted again."""
    incident_id: str | None
    failover_time_ms: int | None
    has_follow_up: bool
    """True if a cutover, a termination or another standby may follow now."""


def promote(
    connection: Connection,
    agent: Agent,
    successor: Successor,
    incident: Incident | None,
    reason: str,
    clock: Clock,
    *,
    retire_after: timedelta | None,
    settings: Settings,
    unchecked: str | None = None,
) -> Promotion:
    """Make an instance the agent's primary; close the incident; begin the cutover.

    The agent's epoch rises, so that a writer that still knows the old primary conflicts. A new
    primary in a risky pool is on probation: SEF keeps a standby for it for some time.

    Args:
        agent: the agent, read in this transaction.
        retire_after: the delay after which SEF terminates the old primary, once the cutover has
            moved the traffic. None: SEF does not terminate it.
        unchecked: the reason why EC2 was not asked if the standby runs. None: EC2 was asked.

    Raises:
        IllegalTransition: the standby is not ready.
        VersionConflict: the agent, the standby or the incident has changed since it was read.
    """
    now = clock()
    old, new = agent.instance_id, successor.instance_id
    epoch = agent.epoch + 1
    incident_id = incident.id if incident else None
    probation_until = _probation_end(connection, successor, now, settings)
    change_primary(
        connection,
        agent,
        new,
        reason,
        now,
        terminate_after=None if retire_after is None else now + retire_after,
        incident_id=incident_id,
        pool_id=successor.pool_id,
        not_before=None,
        probation_until=probation_until,
    )
    deadline = incident.deadline if incident else None
    begin_cutover(connection, agent, new, successor.pool_id, incident_id, deadline, now)
    milliseconds = None
    if incident is not None:
        milliseconds = _close_incident(connection, incident, successor, now, ends_at=clock())
    is_recommended = _reopen_recommendation(connection, agent.id, successor, now, settings)
    promotion = Promotion(
        old_instance_id=old,
        new_instance_id=new,
        epoch=epoch,
        replica_id=successor.replica_id,
        incident_id=incident_id,
        failover_time_ms=milliseconds,
        has_follow_up=agent.cutover is not None
        or (old is not None and retire_after is not None)
        or probation_until is not None
        or is_recommended
        or agent.manual_replica_enabled,
    )
    event = _promotion_event(agent, incident, promotion, reason, now, unchecked=unchecked)
    notifications = []
    if incident is not None and agent.cutover is None:
        # With a cutover, `sef.failover.cutover.events` reports the outcome when the cutover ends.
        notifications.append(
            _outcome_notification(incident, successor, promotion, now, event.type, retire_after)
        )
    replica = successor.replica
    if replica is None or replica.status is ReplicaStatus.PROMOTED:
        write_events(connection, [event], now, notifications)
    else:
        move_replica(
            connection,
            replica,
            ReplicaStatus.PROMOTED,
            reason,
            now,
            events=[event],
            notifications=notifications,
            # A launch that was given up as too slow may run by now.
            ready_at=replica.ready_at or now,
        )
    return promotion


def _reopen_recommendation(
    connection: Connection, agent_id: str, successor: Successor, now: datetime, settings: Settings
) -> bool:
    """Open the incident of a promoted standby again if its recommendation has not expired.

    The new primary then gets a standby. A repeat of the recommendation belongs to this incident, so
    it would open no other. Return True if the incident is open again.
    """
    expires_after = timedelta(seconds=settings.standby_ttl_seconds)
    recommended_at = successor.replica.recommended_at if successor.replica else None
    if recommended_at is None or now - recommended_at >= expires_after:
        return False
    incident = latest_incident(connection, agent_id, successor.instance_id)
    if incident is None or incident.is_open or open_incident(connection, agent_id) is not None:
        return False
    reason = "AWS recommended a rebalance of the new primary while it was a standby"
    update_incident(
        connection,
        incident,
        status=IncidentStatus.OPEN,
        goal=Goal.STANDBY,
        closed_at=None,
        reason=reason,
    )
    return True


def _probation_end(
    connection: Connection, successor: Successor, now: datetime, settings: Settings
) -> datetime | None:
    """Return the end of the new primary's probation. None: its pool is not known to be risky."""
    if (
        successor.market is not Market.SPOT
        or successor.pool_id is None
        or not settings.probation_seconds
    ):
        return None
    settled_after = timedelta(seconds=settings.standby_ttl_seconds)
    history = pool_history.history_of(connection, successor.pool_id, now, settled_after)
    score = risk.assess(history).score
    is_risky = history.terminations > 0 and score >= settings.rebalance_risk_threshold
    if is_risky or (successor.pool_id, Market.SPOT) in backoff.pools_on_cooldown(connection, now):
        return now + timedelta(seconds=settings.probation_seconds)
    return None


def _close_incident(
    connection: Connection,
    incident: Incident,
    successor: Successor,
    now: datetime,
    *,
    ends_at: datetime,
) -> int:
    """Close the incident with its failover time, and return that time in milliseconds."""
    milliseconds = complete_failover(
        connection, incident, incident.caused_by, successor.replica_id, ends_at
    )
    update_incident(
        connection,
        incident,
        status=IncidentStatus.DONE,
        closed_at=now,
        replica_id=successor.replica_id,
        new_instance_id=successor.instance_id,
        failover_time_ms=milliseconds,
    )
    return milliseconds


def _promotion_event(
    agent: Agent,
    incident: Incident | None,
    promotion: Promotion,
    reason: str,
    now: datetime,
    *,
    unchecked: str | None,
) -> Event:
    """Build the event of the promotion: a switchover, or the failover of an incident."""
    milliseconds = promotion.failover_time_ms
    took = "" if milliseconds is None else f" in {seconds(milliseconds)}"
    old = promotion.old_instance_id or "the unknown primary"
    deadline = incident.deadline if incident else None
    is_unplanned = incident is not None and not incident.kind.is_planned
    return Event(
        "switchover_completed" if incident is None else "failover_completed",
        f"{promotion.new_instance_id} replaces {old}{took}: {reason}",
        agent_id=agent.id,
        details={
            "old_instance_id": promotion.old_instance_id,
            "new_instance_id": promotion.new_instance_id,
            "replica_id": promotion.replica_id,
            "epoch": promotion.epoch,
            "failover_time_ms": milliseconds,
            "mode": agent.mode,
            "goal": incident.goal if incident else None,
            "deadline": iso(deadline),
            "seconds_left": round((deadline - now).total_seconds(), 3) if deadline else None,
            "unseen": unchecked,
        },
        incident_id=promotion.incident_id,
        notification=NotificationKind.SWITCH if is_unplanned else None,
        matter=(promotion.epoch,),
    )


def _outcome_notification(
    incident: Incident,
    successor: Successor,
    promotion: Promotion,
    now: datetime,
    event_type: str,
    retire_after: timedelta | None,
) -> Notification:
    """Build the last notification of the incident: its outcome."""
    old = promotion.old_instance_id
    message = f"{incident.kind} is {IncidentStatus.DONE}: "
    message += _summary(incident, successor, promotion.failover_time_ms, now)
    if old is not None and retire_after is not None:
        message += f"; SEF terminates {old} in {retire_after.total_seconds():.0f} s"
    elif old is not None:
        message += f"; {old} is left to AWS or its operator"
    return Notification(
        NotificationKind.OUTCOME,
        event_type,
        message,
        agent_id=incident.agent_id,
        incident_id=incident.id,
    )


def _summary(
    incident: Incident, successor: Successor, milliseconds: int | None, now: datetime
) -> str:
    seconds_left = None
    if incident.deadline is not None and incident.kind.is_announced:
        seconds_left = (incident.deadline - now).total_seconds()
    return summary(
        IncidentSummary(
            kind=incident.kind,
            status=IncidentStatus.DONE,
            goal=incident.goal,
            reason=incident.reason,
            obstacle=None,
            old=incident.subject,
            new=successor.instance_id,
            new_pool=successor.pool_id,
            failover_ms=milliseconds,
            seconds_left=seconds_left,
        )
    )
