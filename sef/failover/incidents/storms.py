"""Report storms: pools in which AWS interrupts the instances of many agents at once.

A storm has one event, which is updated while the storm grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from sef.clock import iso
from sef.context import Context
from sef.db.statements import swap
from sef.db.tables import incidents, pool_storms, system_events
from sef.errors import Unavailable
from sef.notifications.events import Event, write_events
from sef.notifications.failures import report_failure
from sef.terms import NotificationKind

MIN_AGENTS = 3
"""Minimum number of agents with an interruption in one pool that make a storm."""

WITHIN = timedelta(minutes=2)
"""Maximum time between two interruptions of one storm."""


@dataclass(frozen=True, slots=True)
class Storm:
    """The interruptions of one pool within a span of time."""

    pool_id: str
    began_at: datetime
    """Time of the first termination notice or loss."""
    latest_at: datetime
    """Time of the last termination notice or loss."""
    agents: int
    """Number of agents that lost an instance."""


def current_storms(connection: Connection, now: datetime) -> Sequence[Storm]:
    """Return the pools in which instances of many agents were interrupted within `WITHIN`."""
    interrupted = _interruptions(connection, now - WITHIN, now)
    return [storm for storm in interrupted if storm.agents >= MIN_AGENTS]


def report_storms(ctx: Context, now: datetime) -> None:
    """Report the current storms; one that cannot be reported holds up no other.

    The signals themselves report no storm: the transactions of all agents of a storm would then
    wait for the storm's row.
    """
    for storm in ctx.database.read(current_storms, now):
        try:
            ctx.database.write(report_storm, storm, now)
        except Unavailable:
            raise
        except Exception as error:
            report_failure(ctx, None, f"storm in {storm.pool_id}", error)


def report_storm(connection: Connection, storm: Storm, now: datetime) -> None:
    """Write the event of a new storm, or update that of a storm that has grown.

    Raises:
        VersionConflict: another worker has reported the storm meanwhile.
    """
    reported = connection.execute(
        select(pool_storms).where(pool_storms.c.pool_id == storm.pool_id)
    ).one_or_none()
    if reported is not None and storm.began_at - WITHIN < reported.latest_at <= now:
        _update_report(connection, reported, now)
        return
    values = {
        "began_at": storm.began_at,
        "latest_at": storm.latest_at,
        "agents": storm.agents,
        "event_id": _write_event(connection, storm, now),
    }
    if reported is None:
        connection.execute(insert(pool_storms).values(pool_id=storm.pool_id, **values))
    else:
        key = {"pool_id": storm.pool_id}
        swap(connection, pool_storms, key, version=reported.version, **values)


def _update_report(connection: Connection, reported: Row[Any], now: datetime) -> None:
    # The storm may have begun before the interruptions within `WITHIN`: count from its beginning.
    since = reported.began_at - timedelta(microseconds=1)
    found = _interruptions(connection, since, now)
    storm = next((s for s in found if s.pool_id == reported.pool_id), None)
    if storm is None or (storm.agents, storm.latest_at) == (reported.agents, reported.latest_at):
        return
    event = _event(storm)
    connection.execute(
        update(system_events)
        .where(system_events.c.id == reported.event_id)
        .values(message=f"SEF: {event.message}", details=event.details)
    )
    swap(
        connection,
        pool_storms,
        {"pool_id": storm.pool_id},
        version=reported.version,
        agents=storm.agents,
        latest_at=storm.latest_at,
    )


def _interruptions(connection: Connection, since: datetime, until: datetime) -> Sequence[Storm]:
    """Return the interruptions of each pool after `since`, also if only one agent has any."""
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
        f"AWS is interrupting instances of {storm.agents} agents in {storm.pool_id} at once",
        severity="warning",
        details={
            "pool_id": storm.pool_id,
            "agents": storm.agents,
            "began_at": iso(storm.began_at),
            "latest_at": iso(storm.latest_at),
        },
        notification=NotificationKind.ALERT,
        matter=(storm.pool_id, iso(storm.began_at)),
    )


def _write_event(connection: Connection, storm: Storm, now: datetime) -> int:
    """Write the event of a storm and return its ID."""
    event = _event(storm)
    write_events(connection, [event], now)
    columns = system_events.c
    newest = select(func.max(columns.id)).where(
        columns.agent_id.is_(None),
        columns.event_type == event.type,
        columns.created_at == now,
    )
    return int(connection.scalar(newest) or 0)
