"""Writing many reports takes as many statements as writing a few, and never alters a value."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from sef.db.database import Database
from sef.db.tables import price_series, pricing_reports
from sef.prices.bulk import update_versions, upsert_rows
from smart_emergency_fallback import SmartEmergencyFallback
from tests.db.rows import add_ready_standby, row_counts, stored_points
from tests.harness import MakeSef
from tests.private_server import PrivateServer

T = datetime(2024, 3, 1, tzinfo=UTC)


@contextmanager
def statements(sef: SmartEmergencyFallback) -> Iterator[list[str]]:
    """Collect the statements that SEF sends to the database."""
    sent: list[str] = []

    def record(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    engine = sef._database.engine
    event.listen(engine, "before_cursor_execute", record)
    yield sent
    event.remove(engine, "before_cursor_execute", record)


def batch(series: int, minute: int, **fields: Any) -> list[dict[str, Any]]:
    at = (T + timedelta(minutes=minute)).isoformat()
    report = {"pool_id": "p", "spot_price": 0.05, "timestamp": at} | fields
    return [report | {"agent_id": f"a{number}"} for number in range(series)]


@pytest.mark.parametrize(
    ("minutes", "fields"),
    [
        pytest.param([10], {}, id="appended"),
        pytest.param([40], {}, id="after a wide gap"),
        pytest.param([0], {"is_replica": True}, id="the other halves"),
        pytest.param([-5], {}, id="late"),
        pytest.param([0], {}, id="repeats"),
    ],
)
def test_the_number_of_statements_does_not_grow_with_the_reports(
    sef: SmartEmergencyFallback, minutes: list[int], fields: dict[str, Any]
) -> None:
    sef.process_batch(batch(150, 0))
    sent = {}
    for number, minute in [(3, minutes[0]), (150, minutes[0] + 1)]:
        with statements(sef) as sent[number]:
            sef.process_batch(batch(number, minute, **fields))
    # A transaction stores the times of reports at most every 30 s, with one statement for all.
    heard = [sum("agent_instances" in one for one in sent[number]) for number in (3, 150)]
    assert max(heard) <= 1
    assert len(sent[150]) - heard[1] <= len(sent[3]) - heard[0] <= 7, sent[3]


def test_waiting_reports_take_no_statements_of_their_own(
    sef: SmartEmergencyFallback, database_url: str
) -> None:
    sef.process_batch(batch(150, 0))
    for number in range(150):
        add_ready_standby(database_url, f"a{number}", datetime.now(UTC))
    with statements(sef) as buffering:
        assert sef.process_batch(batch(150, 10))["buffered"] == 150
    with statements(sef) as releasing:
        answer = sef.process_batch(batch(150, 10, is_replica=True))
    assert (answer["accepted"], row_counts(database_url)["buffered_observations"]) == (150, 0)
    assert max(len(buffering), len(releasing)) <= 8


def test_writing_reports_does_not_ping_the_server(
    mariadb: PrivateServer, mariadb_url: str, make_sef: MakeSef
) -> None:
    def pings() -> int:
        connection = mariadb.connect()
        with connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Com_admin_commands'")
            ((_, count),) = cursor.fetchall()
        connection.close()
        return int(count)

    sef = make_sef(mariadb_url)
    sef.process_batch(batch(1, 0))
    idle = -(pings() - pings())
    before = pings()
    for minute in range(1, 30):
        sef.process_batch(batch(1, minute))
    assert pings() - before <= idle + 3


@pytest.fixture
def database(mariadb_url: str) -> Iterator[Database]:
    database = Database(mariadb_url)
    yield database
    database.dispose()


AT = "2024-03-01 00:00:00.000000"
POINT = ("agent_id", "pool_id", "timestamp", "spot_price", "data_quality_flag", "primary_price")


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(["a" * 65, "p", AT, "1", "normal", "1", AT], id="an id that is too long"),
        pytest.param(["a", "p", AT, "99999999", "normal", "1", AT], id="a price too high"),
        pytest.param(["a", "p", AT, "much", "normal", "1", AT], id="no price"),
        pytest.param(["a", "p", AT, "1", "normal", "1", "noon"], id="no time"),
        pytest.param(["a", "p", None, "1", "normal", "1", AT], id="no key"),
        pytest.param(["a", "p", AT, "1", "strange", "1", AT], id="an unknown flag"),
    ],
)
def test_a_row_with_an_invalid_value_is_an_error(
    database: Database, mariadb_url: str, row: list[Any]
) -> None:
    with pytest.raises(DBAPIError):
        database.write(upsert_rows, pricing_reports, (*POINT, "received_at"), [row])
    assert stored_points(mariadb_url, row[0], "p") == []


@pytest.mark.parametrize(
    ("rows", "are_all_found"),
    [
        pytest.param(
            [("a0", "p", 1, 5), ("a1", "p", 1, 6)], True, id="the versions that were read"
        ),
        pytest.param([("a0", "p", 1, 0)], True, id="the values that are stored"),
        pytest.param([("a0", "p", 1, 2**62)], True, id="a large number"),
        pytest.param([("a0", "p", 1, 5), ("a1", "p", 0, 5)], False, id="an older version"),
        pytest.param([("a0", "p", 1, 5), ("a1", "p", 2, 5)], False, id="a newer version"),
        pytest.param([("a0", "p", 1, 5), ("a3", "p", 1, 5)], False, id="a missing row"),
        pytest.param([("a0", "p", 0, 5)], False, id="no row with its version"),
    ],
)
def test_only_rows_with_the_version_that_was_read_are_updated(
    sef: SmartEmergencyFallback, rows: list[tuple[Any, ...]], are_all_found: bool
) -> None:
    sef.process_batch(batch(3, 0))
    columns = ("agent_id", "pool_id", "version", "waiting")

    def work(connection: Connection) -> tuple[bool, dict[str, tuple[int, int]]]:
        is_updated = update_versions(connection, price_series, columns, rows)
        stored = connection.execute(price_series.select())
        return is_updated, {row.agent_id: (row.version, row.waiting) for row in stored}

    is_updated, stored = sef._database.write(work)
    assert is_updated == are_all_found
    waiting = {agent_id: count for agent_id, _, version, count in rows if version == 1}
    for agent_id in ("a0", "a1", "a2"):
        assert stored[agent_id] == ((2, waiting[agent_id]) if agent_id in waiting else (1, 0))
