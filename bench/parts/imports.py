"""A file imported into the database: SEF against pandas and DuckDB."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr
from datetime import UTC, datetime
from io import StringIO

from sqlalchemy import Engine, select, text

from bench import fleet, servers
from bench.observations import FLAGS, Ours, Row, check_equal, observations, write_csv
from bench.parts.backfill import DUCKDB, PANDAS, SAME, compared, peers_are_there, timed
from bench.prices import POOL
from bench.results import Comparison
from bench.schedule import Run
from sef.commands.import_file import import_file
from sef.config import Settings
from sef.db import tables
from sef.terms import Flag
from smart_emergency_fallback import SmartEmergencyFallback

PLAIN = """
CREATE TABLE plain_points (
    agent_id VARCHAR(64) NOT NULL, pool_id VARCHAR(128) NOT NULL, timestamp DATETIME(6) NOT NULL,
    spot_price DECIMAL(13, 9) NOT NULL, data_quality_flag VARCHAR(24) NOT NULL,
    PRIMARY KEY (agent_id, pool_id, timestamp)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
"""
INSERT = "INSERT INTO plain_points VALUES (%s, %s, %s, %s, %s)"
ROWS_PER_INSERT = 1000
NOTE = (
    f"{SAME} Only SEF can import the same file again, or resume after it was stopped: it commits "
    "every 1,000 lines and stores with each point the observations behind it. pandas and DuckDB "
    "write once, into a table without these columns."
)


def measure(run: Run) -> Sequence[Comparison]:
    logging.getLogger("sef").setLevel(logging.ERROR)  # a backfill reports thousands of gaps
    size = run.size(200_000, 5_000)
    seen = observations(size)
    file = run.home / "backfill.csv"
    write_csv(file, seen)
    with ExitStack() as stack:
        server = stack.enter_context(servers.mariadb())
        engine = stack.enter_context(fleet.tables_in(server, "backfill"))
        with engine.begin() as connection:
            connection.execute(text(PLAIN))
        sef = SmartEmergencyFallback(server.url("backfill"), settings=Settings(run_jobs=False))
        stack.callback(sef.close)

        def by_sef() -> None:
            with redirect_stderr(StringIO()):  # the progress line
                import_file(str(file), sef.process_batch, defaults={}, checkpoint=None)

        work: dict[str, Callable[[], None]] = {"SEF": by_sef}
        if peers_are_there():
            from bench.backfill_peers import Duckdb, Pandas

            def by_pandas() -> None:
                peer = Pandas.from_csv(file)
                peer.work()
                _insert(engine, peer.rows())

            def by_duckdb() -> None:
                peer = Duckdb.from_csv(file)
                peer.work()
                _insert(engine, peer.rows())

            work |= {PANDAS: by_pandas, DUCKDB: by_duckdb}

        def once(of: Callable[[], None]) -> Callable[[int], float]:
            def emptied(number: int) -> float:
                _empty(engine)
                return timed(of)(number)

            return emptied

        contestants = {who: once(of) for who, of in work.items()}
        expected = Ours(seen)
        expected.work()
        for who, contestant in contestants.items():
            contestant(-1)
            table = "pricing_reports" if who == "SEF" else "plain_points"
            check_equal(expected.rows(), _rows_in(engine, table))
        figures = run.in_turns(contestants)
    return compared(
        f"{size:,} observations from a CSV file to the clean series in MariaDB", figures, NOTE
    )


def _insert(engine: Engine, rows: Sequence[Row]) -> None:
    """Insert a thousand rows per statement, in one transaction."""
    values = [
        (
            f"agent-{series}",
            POOL,
            datetime.fromtimestamp(at, UTC).replace(tzinfo=None),
            price / 10**9,
            FLAGS[flag].value,
        )
        for series, at, price, flag in rows
    ]
    with engine.begin() as connection:
        for start in range(0, len(values), ROWS_PER_INSERT):
            connection.exec_driver_sql(INSERT, values[start : start + ROWS_PER_INSERT])


def _rows_in(engine: Engine, table: str) -> list[Row]:
    columns = tables.pricing_reports.c
    wanted = select(
        columns.agent_id, columns.timestamp, columns.spot_price, columns.data_quality_flag
    ).order_by(columns.agent_id, columns.timestamp)
    with engine.connect() as connection:
        statement = str(wanted.compile(engine)).replace("pricing_reports", table)
        rows = connection.execute(text(statement)).all()
    return [
        (
            int(agent_id.rpartition("-")[2]),
            round(at.replace(tzinfo=UTC).timestamp()),
            int(price.scaleb(9)),
            FLAGS.index(Flag(flag)),
        )
        for agent_id, at, price, flag in rows
    ]


def _empty(engine: Engine) -> None:
    with engine.begin() as connection:
        for table in ("plain_points", *tables.metadata.tables):
            connection.execute(text(f"TRUNCATE {table}"))
