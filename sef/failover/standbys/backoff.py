"""Handle failed launches and bad pools: retry delays, escalation, pool cooldowns."""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, select

from sef.agents import LONGEST_PAUSE, postpone_agent, read_agent
from sef.config import Settings
from sef.db.statements import rows_where, upsert
from sef.db.tables import unavailable_pools
from sef.failover.incidents.rows import open_incident, update_incident
from sef.failover.standbys.rows import (
    Replica,
    change_replica,
    last_ready,
    live_standby,
    move_replica,
    read_replica,
)
from sef.notifications.events import Event, write_once
from sef.notifications.matters import in_kind
from sef.terms import IncidentStatus, Market, NotificationKind, ReplicaStatus

RETRY_EMERGENCY = timedelta(seconds=10)
"""Delay before the next launch of an emergency."""

RETRY = timedelta(seconds=60)
"""Delay before the next launch without an emergency."""

RETRY_OPERATOR = timedelta(minutes=5)
"""Delay before the next launch if an operator most likely has to act first.

An emergency waits for as long only when its deadline has long passed (`emergency_pause`).
"""

MIN_EXTENSION = 0.1
"""Smallest extension of a cooldown that is written, as a part of the cooldown."""

_ON_COOLDOWN = select(unavailable_pools.c.pool_id, unavailable_pools.c.market).where(
    unavailable_pools.c.until > bindparam("now")
)


def emergency_pause(pause: timedelta, deadline: datetime | None, now: datetime) -> timedelta:
    """Return the delay before the next launch of an emergency, at most `pause`.

    Ten seconds until the deadline; after it the delay grows with the time that has passed since.
    """
    overdue = now - deadline if deadline is not None else timedelta()
    return min(pause, max(RETRY_EMERGENCY, overdue / 2))


def is_relief_postponed(standby: Replica, now: datetime) -> bool:
    """Return True if the next relief of a standby waits; a wrong clock may have set the time."""
    not_before = standby.relief_not_before
    return not_before is not None and now < not_before <= now + LONGEST_PAUSE


def fail_launch(
    connection: Connection, replica: Replica, reason: str, pause: timedelta, now: datetime
) -> str | None:
    """Fail a launching replica and postpone the agent's next launch.

    A relief that fails postpones the next relief only. If a relief takes the place of the replica,
    nothing is postponed.

    Return a sentence about it, or None if another worker has changed the replica.

    Args:
        pause: delay before the next launch, at most; `RETRY_OPERATOR` also escalates at once.
    """
    if read_replica(connection, replica.id) != replica:
        return None
    move_replica(connection, replica, ReplicaStatus.FAILED, reason, now, severity="error")
    agent = read_agent(connection, replica.agent_id, lock=True)
    incident = open_incident(connection, agent.id)
    at_once = pause == RETRY_OPERATOR
    if incident is not None and incident.is_emergency:
        pause = emergency_pause(pause, incident.deadline, now)
    standby = live_standby(connection, agent.id)
    if standby is None:
        postpone_agent(connection, agent, now, pause, reason)
    elif replica.relief_agent_id is not None:
        change_replica(connection, standby, relief_not_before=now + pause)
    escalate(connection, agent.id, reason, now, at_once=at_once)
    return f"launch failed, SEF retries in {pause.total_seconds():.0f} s: {reason}"


def escalate(
    connection: Connection, agent_id: str, reason: str, now: datetime, *, at_once: bool = False
) -> None:
    """Mark the open incident of an agent as `needs_operator`, and notify once of each obstacle.

    SEF keeps retrying, so the incident continues by itself once the operator has removed the
    obstacle. An obstacle that is back after a standby was ready is told again.

    Args:
        at_once: escalate before the deadline of the incident too.
    """
    incident = open_incident(connection, agent_id)
    if incident is None:
        return
    is_escalated = incident.status is IncidentStatus.NEEDS_OPERATOR
    is_overdue = incident.deadline is not None and now >= incident.deadline
    if not (is_escalated or at_once or is_overdue):
        return
    if incident.obstacle != reason:
        update_incident(connection, incident, status=IncidentStatus.NEEDS_OPERATOR, obstacle=reason)
    if not (at_once or is_overdue):
        return  # an obstacle that passes by itself, such as a throttled call
    event = Event(
        "operator_needed",
        f"cannot replace {incident.subject}; operator action needed: {reason}",
        agent_id=incident.agent_id,
        severity="error",
        incident_id=incident.id,
        notification=NotificationKind.OPERATOR,
        matter=(in_kind(reason), last_ready(connection, agent_id)),
    )
    write_once(connection, event, now)


def cool_down_pool_of(
    connection: Connection, replica: Replica, code: str, now: datetime, settings: Settings
) -> None:
    """Put the pool of a failed or signalled replica on cooldown."""
    if replica.pool_id and replica.market:
        pause = timedelta(seconds=settings.pool_cooldown_seconds)
        cool_down_pool(connection, replica.pool_id, replica.market, code, now, pause)


def cool_down_interrupted_pool(
    connection: Connection, pool_id: str | None, now: datetime, settings: Settings
) -> None:
    """Put a spot pool on cooldown after an interruption.

    AWS seldom interrupts only one instance of a pool.
    """
    if pool_id is not None:
        pause = timedelta(seconds=settings.interrupted_pool_cooldown_seconds)
        cool_down_pool(connection, pool_id, Market.SPOT, "Interrupted", now, pause)


def cool_down_pool(
    connection: Connection,
    pool_id: str,
    market: Market,
    code: str,
    now: datetime,
    pause: timedelta,
) -> None:
    """Put a pool on cooldown, or extend its cooldown; never shorten it.

    In a storm every signal would update this one row, and the transactions would wait for each
    other. So an extension by less than 10 % is skipped.
    """
    key = {"pool_id": pool_id, "market": market}
    row = rows_where(connection, unavailable_pools, key).one_or_none()
    if row is None or row.until < now + (1 - MIN_EXTENSION) * pause:
        cooldown = {"error_code": code, "until": now + pause}
        upsert(connection, unavailable_pools, [key | cooldown])


def pools_on_cooldown(connection: Connection, now: datetime) -> Collection[tuple[str, Market]]:
    """Return the pools on cooldown, each with its market."""
    rows = connection.execute(_ON_COOLDOWN, {"now": now})
    return {(row.pool_id, Market(row.market)) for row in rows}
