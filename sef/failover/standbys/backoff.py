"""What follows when a standby does not come about, or a pool proves to be a bad one."""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, select

from sef.agents import postpone_agent, read_agent
from sef.config import Settings
from sef.db.statements import rows_where, upsert
from sef.db.tables import unavailable_pools
from sef.failover.incidents.rows import open_incident, update_incident
from sef.failover.standbys.rows import Replica, move_replica, read_replica
from sef.notifications.events import Event, write_events
from sef.terms import IncidentStatus, Market, NotificationKind, ReplicaStatus

RETRY_EMERGENCY = timedelta(seconds=10)
RETRY = timedelta(seconds=60)
RETRY_OPERATOR = timedelta(minutes=5)
"""Until the next standby is tried, after one failed: in need of one, otherwise, and when EC2's
refusal will most likely need a person."""


def fail_launch(
    connection: Connection, replica: Replica, reason: str, pause: timedelta, now: datetime
) -> str | None:
    """A standby has failed, and the next one is tried after a pause; None: too late."""
    if read_replica(connection, replica.id) != replica:
        return None
    move_replica(connection, replica, ReplicaStatus.FAILED, reason, now, severity="error")
    agent = read_agent(connection, replica.agent_id, lock=True)
    postpone_agent(connection, agent, now, pause, reason)
    escalate(connection, agent.id, reason, now, at_once=pause is RETRY_OPERATOR)
    return f"gave up: {reason}"


def escalate(
    connection: Connection, agent_id: str, reason: str, now: datetime, *, at_once: bool = False
) -> None:
    """Say that an agent's incident is stuck: at once, or once its deadline is over.

    It is still tried again: what a person mends goes on by itself.
    """
    incident = open_incident(connection, agent_id)
    if incident is None:
        return
    is_called = incident.status is IncidentStatus.NEEDS_OPERATOR
    is_over = incident.deadline is not None and now >= incident.deadline
    if not is_called and not at_once and not is_over:
        return
    if incident.obstacle != reason:
        update_incident(connection, incident, status=IncidentStatus.NEEDS_OPERATOR, obstacle=reason)
    if is_called:
        return
    event = Event(
        "operator_needed",
        f"{incident.subject} cannot be replaced without help: {reason}",
        incident.agent_id,
        "error",
        incident_id=incident.id,
        notification=NotificationKind.OPERATOR,
    )
    write_events(connection, [event], now)


def cool_down_pool_of(
    connection: Connection, replica: Replica, why: str, now: datetime, settings: Settings
) -> None:
    """Leave the pool alone in which a replica came to grief."""
    if replica.pool_id and replica.market:
        pause = timedelta(seconds=settings.pool_cooldown_seconds)
        cool_down_pool(connection, replica.pool_id, replica.market, why, now, pause)


def cool_down_interrupted_pool(
    connection: Connection, pool_id: str | None, now: datetime, settings: Settings
) -> None:
    """Leave the pool alone in which AWS takes instances: it seldom takes only one."""
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
    """Leave a pool alone for a time, or for longer if that was said before.

    A storm says so with every signal, and all of them would wait for this one row: what is nearly
    said already is not said again.
    """
    key = {"pool_id": pool_id, "market": market}
    said = rows_where(connection, unavailable_pools, key).one_or_none()
    if said is None or said.until < now + 0.9 * pause:
        until = now + pause
        row = {"pool_id": pool_id, "market": market, "error_code": code, "until": until}
        upsert(connection, unavailable_pools, [row])


_UNAVAILABLE = select(unavailable_pools.c.pool_id, unavailable_pools.c.market).where(
    unavailable_pools.c.until > bindparam("now")
)


def pools_on_cooldown(connection: Connection, now: datetime) -> Collection[tuple[str, Market]]:
    rows = connection.execute(_UNAVAILABLE, {"now": now})
    return {(row.pool_id, Market(row.market)) for row in rows}
