"""Insert rows of agents, series and points, by the million, as SEF would have written them.

The statements are separate from SEF's, which take a report per point. A test compares the rows
with those that SEF writes for the same reports.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, create_engine, insert, text

from bench.prices import POOL, prices
from bench.workload import EVERY
from sef.db import tables
from sef.db.database import Database
from sef.terms import Goal, IncidentKind, IncidentStatus, Market, ReplicaStatus, ReplicaType

ROWS = 500_000
"""Points of one statement."""
ROWS_PER_INSERT = 5000
STANDBY_POOL = "m5.large.us-east-1b"


@contextmanager
def tables_in(server: Any, name: str) -> Iterator[Engine]:
    """Create a database with SEF's tables."""
    server.execute(f"CREATE DATABASE {name}")
    url = server.url(name)
    database = Database(url)
    database.create_tables()
    database.dispose()
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def register(engine: Engine, names: Sequence[str], now: datetime, **columns: Any) -> None:
    """Register agents, each with a series without points."""
    common = {"pool_id": POOL, "created_at": now, "updated_at": now}
    rows = [{"id": name, **common, **columns} for name in names]
    with engine.begin() as connection:
        insert_rows(connection, tables.agents, rows)
    begin_series(engine, names)


def begin_series(engine: Engine, names: Sequence[str]) -> None:
    with engine.begin() as connection:
        rows = [{"agent_id": name, "pool_id": POOL} for name in names]
        insert_rows(connection, tables.price_series, rows)


def give_standbys(
    connection: Connection,
    names: Sequence[str],
    now: datetime,
    instances: Sequence[str] | None = None,
    incidents: Sequence[str | None] | None = None,
) -> None:
    """Insert a ready standby for each agent."""
    ids = instances or [f"i-{uuid4().hex[:17]}" for _ in names]
    rows = [
        {
            "id": f"replica-{uuid4().hex[:16]}",
            "agent_id": name,
            "instance_id": instance,
            "replica_type": ReplicaType.REBALANCE,
            "pool_id": STANDBY_POOL,
            "market": Market.SPOT,
            "status": ReplicaStatus.READY,
            "reason": "a rebalance was recommended",
            "incident_id": incident,
            "live_agent_id": name,
            "created_at": now - timedelta(minutes=2),
            "launched_at": now - timedelta(minutes=2),
            "ready_at": now,
            "checked_at": now,
        }
        for name, instance, incident in zip(
            names, ids, incidents or [None] * len(names), strict=True
        )
    ]
    insert_rows(connection, tables.replica_instances, rows)


def open_incidents(
    connection: Connection, agents: Sequence[tuple[str, str]], signalled_at: datetime
) -> list[str]:
    """Insert an incident with its recommendation for each agent and instance; return the ids."""
    ids = [f"incident-{uuid4().hex[:16]}" for _ in agents]
    incidents, signals = [], []
    for incident, (name, instance) in zip(ids, agents, strict=True):
        common = {"agent_id": name, "instance_id": instance, "pool_id": POOL}
        incidents.append(
            common
            | {
                "id": incident,
                "subject": instance,
                "kind": IncidentKind.INTERRUPTION,
                "status": IncidentStatus.OPEN,
                "open_agent_id": name,
                "goal": Goal.STANDBY,
                "reason": "risk 0.50 is at or above 0.30",
                "risk_score": 0.5,
                "rebalance_at": signalled_at,
                "opened_at": signalled_at,
            }
        )
        signals.append(
            common
            | {
                "incident_id": incident,
                "signal_type": "rebalance-recommendation",
                "detected_at": signalled_at,
                "signalled_at": signalled_at,
                "last_received_at": signalled_at,
            }
        )
    insert_rows(connection, tables.incidents, incidents)
    insert_rows(connection, tables.spot_interruption_events, signals)
    return ids


def fill(engine: Engine, names: Sequence[str], points: int, end: int) -> None:
    """Insert `points` points for each agent, five minutes apart.

    The last point is five minutes before `end`. For MariaDB only. The names are
    those of `workload.agents`: registered, and without points.
    """
    if not points:
        return
    name, at_once = names[0].rpartition("-")[0], max(1, ROWS // points)
    first = end - EVERY * points
    values = {"name": name, "pool": POOL, "now": datetime.now(UTC).replace(tzinfo=None)}
    with engine.begin() as connection:
        _make_prices(connection)
        # InnoDB then writes one undo record for the whole first statement, as for an import.
        connection.execute(text("SET SESSION unique_checks = 0, foreign_key_checks = 0"))
    for start in range(0, len(names), at_once):
        last = min(start + at_once, len(names)) - 1
        with engine.begin() as connection:
            connection.execute(text(_POINTS.format(start, last, points - 1, first)), values)
    with engine.begin() as connection:
        connection.execute(text(_HEADS.format(len(names) - 1, points, first)), values)


def _make_prices(connection: Connection) -> None:
    connection.execute(
        text("CREATE TABLE IF NOT EXISTS bench_prices (n INT PRIMARY KEY, price DECIMAL(13, 9))")
    )
    if not connection.scalar(text("SELECT COUNT(*) FROM bench_prices")):
        rows = [{"n": number, "price": price} for number, price in enumerate(prices())]
        connection.execute(text("INSERT INTO bench_prices VALUES (:n, :price)"), rows)


def insert_rows(connection: Connection, table: Any, rows: Sequence[dict[str, Any]]) -> None:
    for start in range(0, len(rows), ROWS_PER_INSERT):
        connection.execute(insert(table), rows[start : start + ROWS_PER_INSERT])


_NAME = "CONCAT(:name, '-', LPAD(a.seq, 6, '0'))"
_POINTS = f"""
INSERT INTO pricing_reports (agent_id, pool_id, timestamp, spot_price, data_quality_flag,
    processed_by, primary_price, received_at)
SELECT {_NAME}, :pool, TIMESTAMP'1970-01-01 00:00:00' + INTERVAL {{3}} + {EVERY} * p.seq SECOND,
    price, 'normal', '{tables.PROCESSED_BY}', price, :now
FROM seq_{{0}}_to_{{1}} AS a STRAIGHT_JOIN seq_0_to_{{2}} AS p STRAIGHT_JOIN bench_prices
ON n = (31 * a.seq + p.seq) % (SELECT COUNT(*) FROM bench_prices)
"""
_HEADS = f"""
UPDATE price_series AS s
JOIN seq_0_to_{{0}} AS a ON s.agent_id = {_NAME} AND s.pool_id = :pool
JOIN bench_prices ON n = (31 * a.seq + {{1}} - 1) % (SELECT COUNT(*) FROM bench_prices)
SET s.version = {{1}},
    s.first_at = TIMESTAMP'1970-01-01 00:00:00' + INTERVAL {{2}} SECOND,
    s.latest_at = TIMESTAMP'1970-01-01 00:00:00' + INTERVAL {{2}} + {EVERY} * ({{1}} - 1) SECOND,
    s.latest_observed_at =
        TIMESTAMP'1970-01-01 00:00:00' + INTERVAL {{2}} + {EVERY} * ({{1}} - 1) SECOND,
    s.latest_price = price,
    s.received_at = :now
"""
