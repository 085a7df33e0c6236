"""Pools in which AWS takes many instances at once: one event each, however many agents."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, insert, select, update

from sef.clock import iso
from sef.db.statements import swap
from sef.db.tables import incidents, pool_storms, system_events
from sef.notifications.events import Event, write_events
from sef.terms import NotificationKind

MIN_AGENTS = 3
"""From so many agents on it is the pool that is interrupted, and not an instance here and there."""

WITHIN = timedelta(minutes=2)
"""Two interruptions further apart are two storms."""


@dataclass(frozen=True, slots=True)
class Storm:
    pool_id: str
    began_at: datetime
    latest_at: datetime
    agents: int


def current_storms(connection: Connection, now: datetime) -> Sequence[Storm]:
    """The pools in which the instances of many agents were taken of late."""
    found = _interruptions(connection, now - WITHIN, now)
    return [storm for storm in found if storm.agents >= MIN_AGENTS]


def report_storm(connection: Connection, storm: Storm, now: datetime) -> None:
    """Write the event of a storm or, when it has more agents than that says, bring it up to date.

    Raises:
        Stale: somebody else has told of it meanwhile.
    """
    columns = pool_storms.c
    known = connection.execute(
        select(pool_storms).where(columns.pool_id == storm.pool_id)
    ).one_or_none()
    if known is None or not storm.began_at - WITHIN < known.latest_at <= now:
        event_id = _write_event(connection, storm, now)
        values = {
            "began_at": storm.began_at,
            "latest_at": storm.latest_at,
            "agents": storm.agents,
            "event_id": event_id,
        }
        if known is None:
            connection.execute(insert(pool_storms).values(pool_id=storm.pool_id, **values))
            return
    else:
        since = known.began_at - timedelta(microseconds=1)
        found = _interruptions(connection, since, now)
        [whole] = [one for one in found if one.pool_id == storm.pool_id]
        if whole.agents == known.agents and whole.latest_at == known.latest_at:
            return
        event = _event(whole)
        connection.execute(
            update(system_events)
            .where(system_events.c.id == known.event_id)
            .values(message=f"SEF: {event.message}", details=event.details)
        )
        values = {"agents": whole.agents, "latest_at": whole.latest_at}
    swap(connection, pool_storms, {"pool_id": storm.pool_id}, version=known.version, **values)


def _interruptions(connection: Connection, since: datetime, until: datetime) -> Sequence[Storm]:
    columns = incidents.c
    rows = connection.execute(
        select(
            columns.pool_id,
            func.min(columns.termination_at).label("began_at"),
            func.max(columns.termination_at).label("latest_at"),
            func.count(columns.agent_id.distinct()).label("agents"),
        )
        .where(
            columns.termination_at > since,
            columns.termination_at <= until,
            columns.pool_id.is_not(None),
        )
        .group_by(columns.pool_id)
        .order_by(columns.pool_id)
    )
    return [Storm(**row._mapping) for row in rows]


def _event(storm: Storm) -> Event:
    return Event(
        "pool_interrupted",
        f"AWS takes instances of {storm.agents} agents in {storm.pool_id} at once",
        severity="warning",
        details={
            "pool_id": storm.pool_id,
            "agents": storm.agents,
            "began_at": iso(storm.began_at),
            "latest_at": iso(storm.latest_at),
        },
        notification=NotificationKind.ALERT,
    )


def _write_event(connection: Connection, storm: Storm, now: datetime) -> int:
    event = _event(storm)
    write_events(connection, [event], now)
    columns = system_events.c
    written = select(func.max(columns.id)).where(
        columns.agent_id.is_(None),
        columns.event_type == event.type,
        columns.created_at == now,
    )
    return int(connection.scalar(written) or 0)
