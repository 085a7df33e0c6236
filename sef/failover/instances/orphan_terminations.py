"""Store the terminations of orphans, each decided before the call and reported once after it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, update

from sef.db.statements import insert_missing
from sef.db.tables import orphan_terminations
from sef.notifications.events import Event, write_events

RETENTION = timedelta(days=1)
"""Time to keep a reported termination.

Longer than EC2 shows an ended instance. An answer that lags may still show it running, and must not
cause a second report.
"""


@dataclass(frozen=True, slots=True)
class OrphanTermination:
    """A decision to terminate an orphan."""

    instance_id: str
    agent_id: str | None
    pool_id: str | None
    decided_at: datetime


def record_decision(connection: Connection, termination: OrphanTermination) -> None:
    """Record that an orphan is about to be terminated."""
    insert_missing(connection, orphan_terminations, [asdict(termination)])


def unreported(connection: Connection) -> Sequence[OrphanTermination]:
    """Return the decided terminations without a report."""
    columns = orphan_terminations.c
    rows = connection.execute(
        select(columns.instance_id, columns.agent_id, columns.pool_id, columns.decided_at).where(
            columns.reported_at.is_(None)
        )
    )
    return [OrphanTermination(**row._mapping) for row in rows]


def cancel_termination(connection: Connection, instance_id: str) -> None:
    """Delete the decision to terminate an instance that runs and is no longer to be terminated."""
    columns = orphan_terminations.c
    connection.execute(
        delete(orphan_terminations).where(
            columns.instance_id == instance_id, columns.reported_at.is_(None)
        )
    )


def report_termination(
    connection: Connection, termination: OrphanTermination, now: datetime
) -> bool:
    """Write the event of a termination; return False if it was written before."""
    record_decision(connection, termination)  # another sweep may have cancelled the decision
    columns = orphan_terminations.c
    is_first = connection.execute(
        update(orphan_terminations)
        .where(columns.instance_id == termination.instance_id, columns.reported_at.is_(None))
        .values(reported_at=now)
    ).rowcount
    if not is_first:
        return False
    event = Event(
        "orphan_terminated",
        f"terminated orphan {termination.instance_id}: no database row refers to it",
        agent_id=termination.agent_id,
        severity="warning",
        details={"instance_id": termination.instance_id, "pool_id": termination.pool_id},
    )
    write_events(connection, [event], now)
    connection.execute(delete(orphan_terminations).where(columns.reported_at < now - RETENTION))
    return True
