"""Store which instances have reported for an agent, apart from the primary in the agent's row.

A report of the primary says nothing new. Only an instance that the rows may not know needs a row:
SEF does not terminate an instance that has just reported as an agent's.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, delete, select, tuple_

from sef.db.statements import upsert
from sef.db.tables import heard_instances, spot_interruption_events

WRITTEN_EVERY = timedelta(seconds=30)
"""Minimum time between two writes of one instance's `heard_at`."""

RETENTION = timedelta(days=1)
"""Time to keep the time at which an instance was heard."""

_columns = heard_instances.c


class Reporting(NamedTuple):
    """An instance that reports, and the agent that it reports for."""

    agent_id: str
    instance_id: str


def record_heard(connection: Connection, heard: Mapping[Reporting, datetime]) -> None:
    """Store the time at which each instance was heard, unless a recent or later time is stored."""
    if not heard:
        return
    known = _stored(connection, heard)
    rows = [
        {"agent_id": key.agent_id, "instance_id": key.instance_id, "heard_at": at}
        for key, at in sorted(heard.items())
        if key not in known or at - known[key] >= WRITTEN_EVERY
    ]
    upsert(connection, heard_instances, rows)


def heard_at(connection: Connection, keys: Iterable[Reporting]) -> dict[Reporting, datetime]:
    """Return the time at which each instance was last heard, by a report or by a signal."""
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    signal = spot_interruption_events.c
    latest = _stored(connection, wanted)
    signals = connection.execute(
        select(signal.agent_id, signal.instance_id, signal.last_received_at).where(
            tuple_(signal.agent_id, signal.instance_id).in_(wanted)
        )
    )
    for row in signals:
        key = Reporting(row.agent_id, row.instance_id)
        latest[key] = max(row.last_received_at, latest.get(key, row.last_received_at))
    return latest


def reporting_since(connection: Connection, agent_id: str, since: datetime) -> set[str]:
    """Return the instances that have reported for an agent since `since`."""
    return set(
        connection.scalars(
            select(_columns.instance_id).where(
                _columns.agent_id == agent_id, _columns.heard_at > since
            )
        )
    )


def forget_heard(connection: Connection, now: datetime) -> None:
    """Delete the times that are too old to matter."""
    connection.execute(delete(heard_instances).where(_columns.heard_at < now - RETENTION))


def _stored(connection: Connection, keys: Iterable[Reporting]) -> dict[Reporting, datetime]:
    rows = connection.execute(
        select(heard_instances).where(
            tuple_(_columns.agent_id, _columns.instance_id).in_(sorted(keys))
        )
    )
    return {Reporting(row.agent_id, row.instance_id): row.heard_at for row in rows}
