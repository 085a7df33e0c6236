"""Writing many reports costs as many statements as writing a few, and nothing is bent to fit."""

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
    """What is sent to the database meanwhile."""
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    engine = sef._database.engine
    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


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
    assert len(sent[150]) <= len(sent[3]) <= 8, sent[3]


def test_what_waits_takes_no_statements_of_its_own(
    sef: SmartEmergencyFallback, database_url: str
) -> None:
    sef.process_batch(batch(150, 0))
    for number in range(150):
        add_ready_standby(database_url, f"a{number}", datetime.now(UTC))
    with statements(sef) as held:
        assert sef.process_batch(batch(150, 10))["buffered"] == 150
    with statements(sef) as released:
        told = sef.process_batch(batch(150, 10, is_replica=True))
    assert (told["accepted"], row_counts(database_url)["buffered_observations"]) == (150, 0)
    assert max(len(held), len(released)) <= 8


def test_the_server_is_not_asked_whether_it_is_there(
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
    found = Database(mariadb_url)
    yield found
    found.dispose()


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
def test_a_row_that_does_not_fit_is_an_error(
    database: Database, mariadb_url: str, row: list[Any]
) -> None:
    with pytest.raises(DBAPIError):
        database.write(upsert_rows, pricing_reports, (*POINT, "received_at"), [row])
    assert stored_points(mariadb_url, row[0], "p") == []


@pytest.mark.parametrize(
    ("rows", "are_all_found"),
    [
        pytest.param([("a0", "p", 1, 5), ("a1", "p", 1, 6)], True, id="as they were read"),
        pytest.param([("a0", "p", 1, 0)], True, id="to what it is"),
        pytest.param([("a0", "p", 1, 5), ("a1", "p", 0, 5)], False, id="an older version"),
        pytest.param([("a0", "p", 1, 5), ("a1", "p", 2, 5)], False, id="a newer version"),
        pytest.param([("a0", "p", 1, 5), ("a3", "p", 1, 5)], False, id="no such row"),
        pytest.param([("a0", "p", 0, 5)], False, id="none"),
    ],
)
def test_versions_move_on_where_they_are_as_read(
    sef: SmartEmergencyFallback, rows: list[tuple[Any, ...]], are_all_found: bool
) -> None:
    sef.process_batch(batch(3, 0))
    columns = ("agent_id", "pool_id", "version", "waiting")

    def work(connection: Connection) -> tuple[bool, dict[str, tuple[int, int]]]:
        told = update_versions(connection, price_series, columns, rows)
        found = connection.execute(price_series.select())
        return told, {row.agent_id: (row.version, row.waiting) for row in found}

    told, found = sef._database.write(work)
    assert told == are_all_found
    hit = {agent_id: waiting for agent_id, _, version, waiting in rows if version == 1}
    for agent_id in ("a0", "a1", "a2"):
        assert found[agent_id] == ((2, hit[agent_id]) if agent_id in hit else (1, 0))
