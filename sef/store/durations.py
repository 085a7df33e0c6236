"""How long steps have taken so far, from our own rows."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from sef.core.cutover import Kind, StepStatus
from sef.core.replica import Market
from sef.store.tables import cutover_steps as steps
from sef.store.tables import incidents, replica_instances

HISTORY = timedelta(days=90)
LATEST = 200
"""How many of the latest are looked at."""


def launches(connection: Connection, market: Market, now: datetime) -> Sequence[float]:
    """Seconds from the wish for a standby to the instance that runs."""
    columns = replica_instances.c
    rows = connection.execute(
        select(columns.created_at, columns.ready_at)
        .where(
            columns.ready_at.is_not(None),
            columns.created_at > now - HISTORY,
            columns.market == market,
        )
        .order_by(columns.created_at.desc())
        .limit(LATEST)
    )
    return [(row.ready_at - row.created_at).total_seconds() for row in rows]


def promotions(connection: Connection, now: datetime) -> Sequence[float]:
    """Seconds from a termination notice to the promotion of a standby that was ready before."""
    incident, replica = incidents.c, replica_instances.c
    rows = connection.scalars(
        select(incident.failover_time_ms)
        .join(replica_instances, replica.id == incident.replica_id)
        .where(
            incident.termination_at > now - HISTORY,
            incident.failover_time_ms.is_not(None),
            replica.ready_at <= incident.termination_at,
        )
        .order_by(incident.termination_at.desc())
        .limit(LATEST)
    )
    return [milliseconds / 1000 for milliseconds in rows if milliseconds is not None]


def cutover_steps(connection: Connection, kind: Kind, now: datetime) -> Sequence[float]:
    """Seconds from the first attempt at a step of a cutover to its end."""
    columns = steps.c
    rows = connection.scalars(
        select(columns.latency_ms)
        .where(
            columns.kind == kind,
            columns.status == StepStatus.DONE,
            columns.finished_at > now - HISTORY,
            columns.latency_ms.is_not(None),
        )
        .order_by(columns.finished_at.desc())
        .limit(LATEST)
    )
    return [milliseconds / 1000 for milliseconds in rows if milliseconds is not None]
