"""Read SEF's tables with statements of the tests' own, and insert the few rows that tests need."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    create_engine,
    delete,
    func,
    insert,
    literal,
    select,
    union_all,
)
from sqlalchemy.pool import NullPool

from sef.db.tables import (
    buffered_observations,
    metadata,
    pricing_reports,
    replica_instances,
    system_events,
)
from sef.prices.series import Point
from sef.terms import Flag

EARLIER = datetime(2024, 1, 1, tzinfo=UTC)


_COUNTS = union_all(
    *[
        select(literal(table.name), func.count()).select_from(table)
        for table in metadata.sorted_tables
    ]
)


@lru_cache
def _engine(url: str) -> Engine:
    # Without a pool: a test may drop the database or stop its server.
    return create_engine(url, poolclass=NullPool)


@contextmanager
def transaction(url: str) -> Iterator[Connection]:
    with _engine(url).begin() as connection:
        yield connection


def empty(url: str) -> None:
    """Delete every row of SEF's tables."""
    with transaction(url) as connection:
        for table in metadata.sorted_tables:
            connection.execute(delete(table))


def row_counts(url: str) -> Mapping[str, int]:
    """Return the number of rows of each table."""
    with transaction(url) as connection:
        return {name: count for name, count in connection.execute(_COUNTS)}  # noqa: C416


def point_of(row: Any) -> Point:
    return Point(
        row.timestamp,
        row.spot_price,
        Flag(row.data_quality_flag),
        row.primary_price,
        row.replica_price,
        row.replica_observed_at,
    )


def stored_points(url: str, agent_id: str, pool_id: str) -> list[Point]:
    """Return the points of one series, oldest first."""
    columns = pricing_reports.c
    with transaction(url) as connection:
        rows = connection.execute(
            select(pricing_reports)
            .where(columns.agent_id == agent_id, columns.pool_id == pool_id)
            .order_by(columns.timestamp)
        )
        return [point_of(row) for row in rows]


def waiting_sources(url: str, agent_id: str) -> list[str]:
    """Return the sources of an agent's buffered observations, oldest first."""
    columns = buffered_observations.c
    with transaction(url) as connection:
        statement = select(columns.source).where(columns.agent_id == agent_id)
        return list(connection.scalars(statement.order_by(columns.observed_at)))


def events(url: str, agent_id: str, event_type: str) -> list[Row[Any]]:
    columns = system_events.c
    with transaction(url) as connection:
        statement = select(system_events).where(
            columns.agent_id == agent_id, columns.event_type == event_type
        )
        return list(connection.execute(statement.order_by(columns.id)))


def standby(agent_id: str, ready_at: datetime | None, **columns: Any) -> dict[str, Any]:
    """Return a row of replica_instances: a ready standby, or a launching one without `ready_at`."""
    return {
        "id": f"replica-{uuid4().hex[:16]}",
        "agent_id": agent_id,
        "instance_id": f"i-{uuid4().hex[:17]}",
        "replica_type": "manual",
        "status": "ready" if ready_at else "launching",
        "reason": "inserted by a test",
        "live_agent_id": agent_id,
        "created_at": EARLIER,
        "ready_at": ready_at,
        **columns,
    }


def add_ready_standby(url: str, agent_id: str, ready_at: datetime) -> None:
    with transaction(url) as connection:
        connection.execute(insert(replica_instances).values(**standby(agent_id, ready_at)))
