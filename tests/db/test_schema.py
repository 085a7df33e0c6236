"""Create the tables, check existing ones, and reject rows that break a constraint."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import BigInteger, Integer, Table, create_engine, event, insert, inspect, text
from sqlalchemy.exc import DBAPIError

from sef import main
from sef.db import tables
from sef.db.database import Database, SchemaMismatch
from sef.db.engines import engine_of
from sef.db.schema import render
from sef.db.tables import metadata
from tests.db.rows import row_counts, standby, transaction
from tests.mariadb import MariaDB
from tests.waiting import LIMIT

ROOT = Path(__file__).resolve().parent.parent.parent
NOW = datetime(2024, 3, 1, tzinfo=UTC)
NAMES = sorted(metadata.tables)


@pytest.fixture
def sqlite_url(bare_sqlite_url: str) -> str:
    return bare_sqlite_url


@pytest.fixture
def mariadb_url(bare_mariadb_url: str) -> str:
    """Return a database without tables: the tests of this file create them."""
    return bare_mariadb_url


def create(url: str) -> list[str]:
    database = Database(url)
    try:
        return sorted(database.create_tables())
    finally:
        database.dispose()


@pytest.fixture(scope="module")
def created_on_mariadb(mariadb: MariaDB) -> Iterator[str]:
    """Return a MariaDB database with SEF's tables, without rows."""
    mariadb.execute("CREATE DATABASE created CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    create(mariadb.url("created"))
    yield mariadb.url("created")
    mariadb.execute("DROP DATABASE created")


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def created(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a database with SEF's tables, without rows; a test runs once on each kind."""
    if request.param == "mariadb":
        return str(request.getfixturevalue("created_on_mariadb"))
    url = f"sqlite:///{tmp_path_factory.mktemp('created') / 'sef.db'}"
    create(url)
    return url


def test_schema_sql_is_rendered_from_the_tables() -> None:
    assert (ROOT / "schema.sql").read_text() == render()


def described(url: str) -> dict[str, list[Any]]:
    """Return all that information_schema contains about the tables of a database."""
    sources = {
        "columns": "table_name, ordinal_position, column_name, column_type, is_nullable, "
        "column_default, collation_name, column_key, extra, column_comment",
        "statistics": "table_name, index_name, seq_in_index, column_name, non_unique",
        "check_constraints": "constraint_name, check_clause",
        "tables": "table_name, engine, table_collation, table_comment",
    }
    with transaction(url) as connection:
        return {
            source: [
                tuple(row)
                for row in connection.execute(
                    text(
                        f"SELECT {columns} FROM information_schema.{source} "
                        f"WHERE {'constraint' if 'check' in source else 'table'}_schema = "
                        f"DATABASE() ORDER BY {columns}"
                    )
                )
            ]
            for source, columns in sources.items()
        }


def test_schema_sql_begins_with_the_public_tables() -> None:
    rendered = re.findall(r"^CREATE TABLE (\w+)", render(), re.MULTILINE)
    assert rendered[:5] == [
        "agents",
        "replica_instances",
        "pricing_reports",
        "spot_interruption_events",
        "system_events",
    ]
    assert sorted(rendered) == NAMES


def test_schema_sql_creates_the_same_tables_as_sef(mariadb: MariaDB, mariadb_url: str) -> None:
    mariadb.execute("CREATE DATABASE by_hand CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
    try:
        connection = mariadb.connect("by_hand")
        lines = (ROOT / "schema.sql").read_text().splitlines(keepends=True)
        script = "".join(line for line in lines if not line.startswith("--"))
        for statement in script.split(";\n"):
            if statement.strip():
                with connection.cursor() as cursor:
                    cursor.execute(statement)
        connection.close()
        create(mariadb_url)
        by_hand = described(mariadb.url("by_hand"))
        assert by_hand == described(mariadb_url)
        assert {row[0] for row in by_hand["tables"]} == set(NAMES)
        assert len(by_hand["check_constraints"]) > 10
        assert create(mariadb.url("by_hand")) == []
    finally:
        mariadb.execute("DROP DATABASE by_hand")


def test_columns_of_times_and_prices_are_exact(created_on_mariadb: str) -> None:
    types = {(row[0], row[2]): row[3] for row in described(created_on_mariadb)["columns"]}
    assert types["pricing_reports", "timestamp"] == "datetime(6)"
    assert types["pricing_reports", "spot_price"] == "decimal(13,9)"


def test_tables_are_created_once(database_url: str) -> None:
    assert create(database_url) == NAMES
    with transaction(database_url) as connection:
        connection.execute(insert(tables.agents).values(id="a", created_at=NOW, updated_at=NOW))
    assert create(database_url) == []
    assert row_counts(database_url)["agents"] == 1


def test_a_missing_table_is_created_beside_the_others(database_url: str) -> None:
    create(database_url)
    with transaction(database_url) as connection:
        connection.execute(text("DROP TABLE leases"))
    assert create(database_url) == ["leases"]


def test_a_start_on_complete_tables_executes_one_statement(created: str) -> None:
    executed: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        executed.append(statement)

    database = Database(created)
    event.listen(database.engine, "before_cursor_execute", note)
    try:
        assert database.create_tables() == []
    finally:
        database.dispose()
    assert len(executed) == 1, executed


def test_threads_that_create_the_tables_at_the_same_time_all_succeed(database_url: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(create, [database_url] * 8))
    assert set(inspect(create_engine(database_url)).get_table_names()) == set(NAMES)


def test_threads_that_open_a_new_sqlite_file_at_the_same_time_all_succeed(tmp_path: Path) -> None:
    """SQLite returns "locked" without a wait if several connections change the journal mode."""
    for number in range(60):
        opened = threading.Barrier(6)

        def journal_mode(_: int, number: int = number, opened: threading.Barrier = opened) -> Any:
            engine = engine_of(f"sqlite:///{tmp_path}/{number}.db")
            opened.wait()
            with engine.connect() as connection:
                mode = connection.execute(text("PRAGMA journal_mode")).scalar()
            engine.dispose()
            return mode

        with ThreadPoolExecutor(6) as threads:
            assert set(threads.map(journal_mode, range(6))) == {"wal"}


CREATE = """
import sys
from sef.db.database import Database
print("ready", flush=True)
sys.stdin.readline()
Database(sys.argv[1]).create_tables()
"""


def test_processes_that_create_the_tables_at_the_same_time_all_succeed(database_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, database_url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=LIMIT)
        assert (process.returncode, errors) == (0, "")
    assert set(inspect(create_engine(database_url)).get_table_names()) == set(NAMES)


def test_a_table_of_another_application_is_reported_and_not_changed(database_url: str) -> None:
    with transaction(database_url) as connection:
        connection.execute(text("CREATE TABLE agents (id VARCHAR(64) PRIMARY KEY, name TEXT)"))
        connection.execute(text("INSERT INTO agents VALUES ('bond', 'James')"))
    with pytest.raises(SchemaMismatch) as raised:
        create(database_url)
    message = str(raised.value)
    assert message.startswith("table agents of ")
    missing = {column.name for column in tables.agents.columns} - {"id"}
    assert all(name in message for name in missing)
    assert "\n" not in message
    with transaction(database_url) as connection:
        assert connection.execute(text("SELECT * FROM agents")).all() == [("bond", "James")]


def test_a_table_of_another_application_stops_the_start_with_one_line(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(database_url) as connection:
        connection.execute(text("CREATE TABLE leases (name VARCHAR(64) PRIMARY KEY)"))
    monkeypatch.setattr(sys, "argv", ["sef", "init-db", "--database-url", database_url])
    with pytest.raises(SystemExit) as stopped:
        main.run()
    (line,) = str(stopped.value.code).splitlines()  # Python prints it and exits with status 1
    assert line.startswith("SEF: table leases of ")
    assert "expires_at, holder, version" in line


def test_additional_columns_are_accepted(database_url: str) -> None:
    create(database_url)
    with transaction(database_url) as connection:
        connection.execute(text("ALTER TABLE agents ADD COLUMN owner VARCHAR(20)"))
    assert create(database_url) == []


AGENT = {"id": "a", "created_at": NOW, "updated_at": NOW}
REAL = {
    "agent_id": "a",
    "pool_id": "p",
    "timestamp": NOW,
    "spot_price": 1,
    "data_quality_flag": "normal",
    "primary_price": 1,
    "received_at": NOW,
}
FILL = REAL | {"data_quality_flag": "interpolated", "primary_price": None}
INCIDENT = {
    "id": "1",
    "agent_id": "a",
    "subject": "i-1",
    "status": "open",
    "open_agent_id": "a",
    "goal": "standby",
    "reason": "",
    "opened_at": NOW,
}
SIGNAL = {
    "incident_id": "1",
    "agent_id": "a",
    "signal_type": "termination-notice",
    "detected_at": NOW,
    "signalled_at": NOW,
    "last_received_at": NOW,
}
BUFFERED = {
    "agent_id": "a",
    "pool_id": "p",
    "source": "primary",
    "observed_at": NOW,
    "spot_price": 1,
    "received_at": NOW,
}
EVENT = {"event_type": "e", "severity": "info", "message": "SEF: e", "created_at": NOW}
ATTEMPT = {
    "client_token": "t",
    "replica_id": "r",
    "attempt": 1,
    "market": "spot",
    "parameters": {},
    "launch_fingerprint": "s",
    "status": "open",
    "created_at": NOW,
}
MODES = ["auto_switch_enabled", "auto_terminate_enabled"]


def put(url: str, table: Table, *rows: dict[str, Any]) -> None:
    """Insert rows and roll back."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            for row in rows:
                connection.execute(insert(table).values(row))
            connection.rollback()
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        pytest.param(tables.agents, [AGENT | {"manual_replica_enabled": True}], id="manual mode"),
        pytest.param(tables.agents, [AGENT | dict.fromkeys(MODES, True)], id="both auto modes"),
        pytest.param(tables.agents, [AGENT, AGENT | {"id": "A"}], id="ids that differ in case"),
        pytest.param(tables.pricing_reports, [REAL], id="a real point"),
        pytest.param(tables.pricing_reports, [FILL], id="an interpolated point"),
        pytest.param(
            tables.replica_instances,
            [standby("a", NOW), standby("b", NOW)],
            id="standbys of two agents",
        ),
        pytest.param(
            tables.replica_instances,
            [
                standby("a", NOW),
                *[standby("a", NOW, status="failed", live_agent_id=None) for _ in range(2)],
            ],
            id="a standby and two failed ones",
        ),
        pytest.param(tables.incidents, [INCIDENT], id="an incident"),
        pytest.param(tables.spot_interruption_events, [SIGNAL], id="a signal"),
        pytest.param(tables.buffered_observations, [BUFFERED], id="a buffered observation"),
        pytest.param(tables.system_events, [EVENT], id="an event"),
        pytest.param(tables.launch_attempts, [ATTEMPT], id="an attempt"),
        pytest.param(tables.deployment, [{"one": 1, "name": "sef"}], id="the deployment"),
    ],
)
def test_a_valid_row_is_accepted(created: str, table: Table, rows: list[Any]) -> None:
    put(created, table, *rows)


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        *[
            pytest.param(
                tables.agents,
                [AGENT | {"manual_replica_enabled": True, mode: True}],
                id=f"manual and {mode}",
            )
            for mode in MODES
        ],
        pytest.param(tables.agents, [AGENT, AGENT], id="an agent twice"),
        pytest.param(
            tables.pricing_reports, [REAL | {"data_quality_flag": "good"}], id="an unknown flag"
        ),
        pytest.param(
            tables.pricing_reports,
            [REAL | {"data_quality_flag": "Normal"}],
            id="a flag in upper case",
        ),
        pytest.param(tables.pricing_reports, [REAL | {"spot_price": -1}], id="a negative price"),
        pytest.param(tables.pricing_reports, [REAL | {"spot_price": 0}], id="a price of zero"),
        pytest.param(
            tables.pricing_reports, [FILL | {"primary_price": 1}], id="interpolated, but observed"
        ),
        pytest.param(
            tables.pricing_reports,
            [FILL | {"replica_price": 1}],
            id="interpolated, but observed by the replica",
        ),
        pytest.param(
            tables.pricing_reports, [REAL | {"primary_price": None}], id="real, but not observed"
        ),
        pytest.param(tables.pricing_reports, [REAL, FILL], id="two points at one instant"),
        pytest.param(
            tables.replica_instances,
            [standby("a", NOW), standby("a", NOW)],
            id="two ready standbys",
        ),
        pytest.param(
            tables.replica_instances,
            [standby("a", None), standby("a", NOW)],
            id="a standby that launches and one that is ready",
        ),
        pytest.param(
            tables.replica_instances,
            [standby("a", NOW, live_agent_id=None)],
            id="ready, without live_agent_id",
        ),
        pytest.param(
            tables.replica_instances,
            [standby("a", None, live_agent_id=None, relief_agent_id="a") for _ in range(2)],
            id="two reliefs of one standby",
        ),
        pytest.param(
            tables.replica_instances,
            [standby("a", None, relief_agent_id="a")],
            id="a standby that is its own relief",
        ),
        pytest.param(
            tables.replica_instances,
            [standby("a", NOW, live_agent_id=None, relief_agent_id="a")],
            id="a relief that is ready",
        ),
        pytest.param(
            tables.replica_instances,
            [standby("a", NOW, status="promoted")],
            id="promoted, with live_agent_id",
        ),
        pytest.param(
            tables.replica_instances,
            [standby("a", NOW, instance_id="i-1"), standby("b", NOW, instance_id="i-1")],
            id="one instance in two rows",
        ),
        pytest.param(
            tables.replica_instances,
            [standby("a", NOW, status="dreaming", live_agent_id=None)],
            id="an unknown status",
        ),
        pytest.param(
            tables.replica_instances,
            [standby("a", NOW, replica_type="automatic")],
            id="an unknown type",
        ),
        pytest.param(tables.incidents, [INCIDENT, INCIDENT | {"id": "2"}], id="two open incidents"),
        pytest.param(
            tables.incidents, [INCIDENT | {"open_agent_id": None}], id="open, without open_agent_id"
        ),
        pytest.param(
            tables.incidents, [INCIDENT | {"status": "done"}], id="done, with open_agent_id"
        ),
        pytest.param(tables.spot_interruption_events, [SIGNAL, SIGNAL], id="a signal twice"),
        pytest.param(
            tables.spot_interruption_events,
            [SIGNAL | {"signal_type": "earthquake"}],
            id="an unknown signal",
        ),
        pytest.param(
            tables.buffered_observations,
            [BUFFERED | {"source": "rumour"}],
            id="an unknown source",
        ),
        pytest.param(
            tables.system_events, [EVENT | {"severity": "panic"}], id="an unknown severity"
        ),
        pytest.param(
            tables.launch_attempts,
            [ATTEMPT, ATTEMPT | {"client_token": "u"}],
            id="one attempt twice",
        ),
        pytest.param(
            tables.launch_attempts, [ATTEMPT | {"market": "flea"}], id="an unknown market"
        ),
        pytest.param(
            tables.launch_attempts,
            [ATTEMPT | {"status": "odd"}],
            id="an unknown status of an attempt",
        ),
        pytest.param(tables.deployment, [{"one": 2, "name": "sef"}], id="a second deployment"),
    ],
)
def test_an_invalid_row_is_refused(created: str, table: Table, rows: list[Any]) -> None:
    *valid, _ = rows
    put(created, table, *valid)
    with pytest.raises(DBAPIError):
        put(created, table, *rows)


SMALL = {
    "cutover_steps.position": "number of a step of one cutover",
    "cutover_steps.stage": "number of a stage of one cutover",
    "deployment.one": "always 1",
}
"""Integer columns whose values neither time nor a count can raise, and the reason."""


def test_no_column_is_too_small_for_a_time_or_a_count() -> None:
    integers = {
        str(column): column.type
        for table in metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, Integer)
    }
    too_small = {name for name, kind in integers.items() if not isinstance(kind, BigInteger)}
    assert too_small <= SMALL.keys()
    suffixes = ("_ms", "_seconds")
    for table in metadata.sorted_tables:
        for column in table.columns:
            if column.name.endswith(suffixes):
                assert isinstance(column.type, BigInteger), column
