"""Use SmartEmergencyFallback on a caller's open connection, Engine or URL."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import mysql.connector
import pytest
from flask import Flask
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool, StaticPool

from sef import config
from sef.db.database import Database
from smart_emergency_fallback import SmartEmergencyFallback, integrate_with_backend
from tests.db.rows import row_counts, stored_points
from tests.harness import MakeSef

T = datetime(2024, 3, 1, tzinfo=UTC)
Connect = Callable[..., Any]


@pytest.fixture
def database_url(mariadb_url: str) -> str:
    return mariadb_url


@pytest.fixture
def connect(mariadb_url: str) -> Iterator[Connect]:
    """Return a function that opens a connection of the driver, as a caller does."""
    url = make_url(mariadb_url)
    opened = []

    def open_one(**options: Any) -> Any:
        arguments = {
            "host": url.host,
            "port": url.port,
            "user": url.username,
            "database": url.database,
            "collation": "utf8mb4_general_ci",
        }
        opened.append(mysql.connector.connect(**arguments | options))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


def report(
    sef: SmartEmergencyFallback, minute: int = 0, agent_id: str = "a", **fields: Any
) -> dict[str, Any]:
    at = T + timedelta(minutes=minute)
    body = {"spot_price": 0.05, "pool_id": "p", "timestamp": at.isoformat()} | fields
    return sef.process_incoming_data(agent_id, "pricing", body)


def make_callers(connection: Any) -> None:
    query(connection, "DROP TABLE IF EXISTS callers")
    query(connection, "CREATE TABLE callers (name VARCHAR(20) PRIMARY KEY)")


def query(connection: Any, statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.with_rows else None


OPTIONS = [
    pytest.param({}, id="the C driver"),
    pytest.param({"use_pure": True}, id="the pure driver"),
    pytest.param({"autocommit": True}, id="autocommit"),
    pytest.param({"use_pure": True, "autocommit": True}, id="pure, autocommit"),
    pytest.param({"buffered": True}, id="buffered cursors"),
    pytest.param({"raise_on_warnings": True}, id="warnings are errors"),
    pytest.param({"time_zone": "+05:30"}, id="another time zone"),
    pytest.param({"sql_mode": "ANSI_QUOTES"}, id="another SQL mode"),
    pytest.param({"client_flags": [-mysql.connector.ClientFlag.FOUND_ROWS]}, id="affected rows"),
    pytest.param({"consume_results": True}, id="results are consumed"),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_everything_works_on_a_callers_connection(
    connect: Connect, make_sef: MakeSef, mariadb_url: str, options: dict[str, Any]
) -> None:
    connection = connect(**options)
    sef = make_sef(connection)
    assert report(sef)["status"] == "success"
    assert report(sef, spot_price=0.0502, is_replica=True)["data_quality_flag"] == (
        "averaged_dual_source"
    )
    result = sef.process_batch(
        [
            {"agent_id": "a", "spot_price": 0.06, "pool_id": "p", "timestamp": at.isoformat()}
            for at in (T + timedelta(minutes=20), T, T + timedelta(minutes=70))
        ]
    )
    assert (result["accepted"], result["interpolated"], result["rejected"]) == (3, 3, [])
    assert sef.get_agent_status("a")["data_quality"]["points"] == 6
    assert [event["event_type"] for event in sef.agent_events("a")] != []
    assert sef.cleanup_old_buffers() == 0
    sef.check_ready()
    assert [str(point.flag) for point in stored_points(mariadb_url, "a", "p")] == [
        "divergent_dual_source",
        *["interpolated"] * 3,
        "normal",
        "normal",
    ]
    assert connection.autocommit == options.get("autocommit", False)


@pytest.mark.parametrize("use_pure", [False, True], ids=["C", "pure"])
def test_eight_threads_share_one_connection(
    connect: Connect, make_sef: MakeSef, mariadb_url: str, use_pure: bool
) -> None:
    sef = make_sef(connect(use_pure=use_pure))

    def work(number: int) -> None:
        for minute in range(10):
            assert report(sef, minute, agent_id=f"a{number % 3}")["status"] == "success"
            assert sef.get_agent_status(f"a{number % 3}")["mode"] == "emergency_only"
            sef.price_series(f"a{number % 3}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert row_counts(mariadb_url)["pricing_reports"] == 30


@pytest.mark.parametrize("autocommit", [False, True], ids=["no autocommit", "autocommit"])
@pytest.mark.parametrize("use_pure", [False, True], ids=["C", "pure"])
def test_a_callers_open_read_transaction_does_not_block_sef(
    connect: Connect, make_sef: MakeSef, use_pure: bool, autocommit: bool
) -> None:
    connection = connect(use_pure=use_pure, autocommit=autocommit)
    make_callers(connection)
    sef = make_sef(connection)
    query(connection, "SELECT * FROM callers")  # takes a snapshot before the first report
    assert report(sef)["status"] == "success"
    assert report(sef, 1)["status"] == "success"
    assert len(query(connection, "SELECT * FROM pricing_reports")) == 2
    # The query above began another read transaction of the caller.
    assert report(sef, 2)["status"] == "success"
    assert len(sef.price_series("a")) == 3
    assert len(query(connection, "SELECT * FROM pricing_reports")) == 3


@pytest.mark.parametrize("use_pure", [False, True], ids=["C", "pure"])
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(report, id="a report"),
        pytest.param(lambda sef: sef.check_ready(), id="a read"),
        pytest.param(lambda sef: report(sef, spot_price=-1), id="a rejected report"),
        pytest.param(lambda sef: sef.process_batch([]), id="an empty batch"),
    ],
)
def test_a_callers_uncommitted_write_is_not_lost(
    connect: Connect,
    make_sef: MakeSef,
    use_pure: bool,
    call: Callable[[SmartEmergencyFallback], Any],
) -> None:
    connection = connect(use_pure=use_pure)
    make_callers(connection)
    sef = make_sef(connection)
    query(connection, "INSERT INTO callers VALUES ('kept')")
    call(sef)
    connection.commit()
    assert query(connect(), "SELECT * FROM callers") == [("kept",)]


def test_a_callers_uncommitted_write_is_committed_by_a_report(
    connect: Connect, make_sef: MakeSef
) -> None:
    connection = connect()
    make_callers(connection)
    sef = make_sef(connection)
    query(connection, "INSERT INTO callers VALUES ('kept')")
    report(sef)
    connection.rollback()
    assert query(connect(), "SELECT * FROM callers") == [("kept",)]


def test_a_callers_write_before_sef_is_created_is_not_lost(
    connect: Connect, make_sef: MakeSef
) -> None:
    connection = connect()
    make_callers(connection)
    query(connection, "INSERT INTO callers VALUES ('kept')")
    make_sef(connection)
    connection.commit()
    assert query(connect(), "SELECT * FROM callers") == [("kept",)]


def test_closing_sef_leaves_the_connection_open(connect: Connect, make_sef: MakeSef) -> None:
    connection = connect()
    sef = make_sef(connection)
    report(sef)
    sef.close()
    assert query(connection, "SELECT COUNT(*) FROM pricing_reports") == [(1,)]


def test_two_connections_work_side_by_side(
    connect: Connect, make_sef: MakeSef, mariadb_url: str
) -> None:
    def work(number: int) -> None:
        sef = make_sef(connect(use_pure=bool(number % 2)))
        for minute in range(15):
            assert report(sef, minute)["status"] == "success"

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert len(stored_points(mariadb_url, "a", "p")) == 15


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="the default, REPEATABLE READ"),
        pytest.param({"isolation_level": "SERIALIZABLE"}, id="SERIALIZABLE"),
        pytest.param({"isolation_level": "AUTOCOMMIT"}, id="AUTOCOMMIT"),
        pytest.param({"poolclass": NullPool}, id="without a pool"),
        pytest.param({"pool_size": 2, "max_overflow": 0}, id="a small pool"),
    ],
)
def test_a_callers_engine_is_used(
    make_sef: MakeSef, mariadb_url: str, options: dict[str, Any]
) -> None:
    engine = create_engine(mariadb_url, **options)
    sef = make_sef(engine)

    def work(number: int) -> None:
        for minute in range(10):
            assert report(sef, minute, spot_price=0.05 + number / 100)["status"] == "success"

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert len(stored_points(mariadb_url, "a", "p")) == 10
    with engine.connect() as connection:
        if options.get("isolation_level") == "AUTOCOMMIT":
            assert connection.connection.dbapi_connection.autocommit
        else:
            level = options.get("isolation_level", "REPEATABLE READ")
            assert connection.get_isolation_level() == level


def test_a_callers_engine_of_a_sqlite_file_is_used(make_sef: MakeSef, sqlite_url: str) -> None:
    sef = make_sef(create_engine(sqlite_url))

    def work(number: int) -> None:
        for minute in range(10):
            assert report(sef, minute, spot_price=0.05 + number / 100)["status"] == "success"

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert len(stored_points(sqlite_url, "a", "p")) == 10


def test_threads_take_turns_on_an_engine_with_one_shared_connection() -> None:
    one = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    database = Database(create_engine("sqlite://", **one))
    inside: list[int] = []

    def work(number: int) -> int:
        def alone(connection: Connection) -> int:
            inside.append(number)
            connection.execute(text("SELECT 1"))
            time.sleep(0.001)
            return inside.pop()

        return database.write(alone)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(20))) == list(range(20))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(str, id="text"),
        pytest.param(make_url, id="a URL object"),
        pytest.param(lambda url: url.partition("?")[0], id="without a collation"),
    ],
)
def test_a_url_is_used(make_sef: MakeSef, mariadb_url: str, kind: Callable[[str], Any]) -> None:
    assert report(make_sef(kind(mariadb_url)))["status"] == "success"
    assert len(stored_points(mariadb_url, "a", "p")) == 1


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (None, "NoneType"),
        (5, "int"),
        ({"host": "localhost"}, "dict"),
        (b"sqlite://", "bytes"),
        (object(), "object"),
    ],
    ids=["None", "a number", "a dict", "bytes", "an object"],
)
def test_any_other_source_is_a_type_error(wrong: Any, name: str) -> None:
    with pytest.raises(TypeError) as raised:
        SmartEmergencyFallback(wrong, settings=config.load(run_jobs=False))
    assert str(raised.value) == (
        "SmartEmergencyFallback takes a SQLAlchemy Engine, a database URL or an open "
        f"mysql.connector connection, not {name}"
    )


@pytest.fixture
def callers_app(connect: Connect, make_sef: MakeSef) -> Flask:
    """Return a caller's app with its own routes and error handlers."""
    app = Flask("callers")

    @app.get("/api/agents/<agent_id>")
    def agent(agent_id: str) -> str:
        return f"the caller's {agent_id}"

    @app.get("/broken")
    def broken() -> str:
        raise ZeroDivisionError

    @app.get("/refused")
    def refused() -> str:
        raise ValueError("the caller's")

    @app.errorhandler(404)
    def not_found(error: Exception) -> tuple[str, int]:
        return "the caller's 404", 404

    @app.errorhandler(ValueError)
    def value_error(error: Exception) -> tuple[str, int]:
        return "the caller's ValueError", 418

    sef = make_sef(connect())
    report(sef)
    integrate_with_backend(app, sef)
    return app


def test_only_the_routes_for_operators_are_added(callers_app: Flask) -> None:
    base = "/api/agents/<agent_id:agent_id>"
    added = {
        (rule.rule, method)
        for rule in callers_app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if str(rule.rule).startswith(base)
    }
    assert added == {
        (f"{base}/manual-replica/enable", "POST"),
        (f"{base}/manual-replica/disable", "POST"),
        (f"{base}/manual-switch", "POST"),
        (f"{base}/sef-status", "GET"),
    }
    others = {str(rule.rule) for rule in callers_app.url_map.iter_rules()} - {p for p, _ in added}
    assert others == {"/static/<path:filename>", "/api/agents/<agent_id>", "/broken", "/refused"}


def test_the_added_routes_answer_and_reject_as_sef_does(callers_app: Flask) -> None:
    client = callers_app.test_client()
    assert client.get("/api/agents/a/sef-status").json["mode"] == "emergency_only"
    for path, status, reason in [
        ("/api/agents/nobody/manual-switch", 404, "agent_not_found"),
        ("/api/agents/a%20b/manual-switch", 400, "invalid_agent_id"),
    ]:
        answer = client.post(path)
        assert (answer.status_code, answer.json["reason"]) == (status, reason)


def test_the_apps_own_routes_and_error_handlers_stay(callers_app: Flask) -> None:
    client = callers_app.test_client()
    answers = {
        path: (answer.status_code, answer.text)
        for path in ("/api/agents/a", "/nowhere", "/refused", "/healthz", "/api/agents")
        for answer in [client.get(path)]
    }
    assert answers == {
        "/api/agents/a": (200, "the caller's a"),
        "/nowhere": (404, "the caller's 404"),
        "/refused": (418, "the caller's ValueError"),
        "/healthz": (404, "the caller's 404"),
        "/api/agents": (404, "the caller's 404"),
    }
    assert client.get("/broken").content_type.startswith("text/html")
    assert client.get("/broken").status_code == 500
    assert "MAX_CONTENT_LENGTH" not in {k for k, v in callers_app.config.items() if v is not None}
