"""Stop and restart the database: SEF loses nothing that it acknowledged, and needs no restart."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from sqlalchemy import Connection, insert, text

from sef import config
from sef.db.database import Database
from sef.db.tables import agents
from sef.errors import Unavailable
from sef.main import create_app
from tests.db.rows import row_counts, stored_points
from tests.private_server import PrivateServer
from tests.waiting import LIMIT, until
from tests.web.server import Server

T = datetime(2024, 3, 1, tzinfo=UTC)


def report(number: int = 0) -> dict[str, Any]:
    at = T + timedelta(minutes=number)
    return {"spot_price": 0.05, "pool_id": "p", "timestamp": at.isoformat()}


@pytest.fixture
def client(mariadb_url: str) -> Iterator[FlaskClient]:
    app = create_app(
        config.load(
            database_url=mariadb_url,
            run_jobs=False,
            cloud="aws",
            region="us-east-1",
            ec2_endpoint="http://127.0.0.1:9",
        )
    )
    yield app.test_client()
    app.extensions["sef"].close()


@contextmanager
def away(mariadb: PrivateServer) -> Iterator[None]:
    mariadb.kill()
    try:
        yield
    finally:
        mariadb.start()


CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/api/agents/a/pricing", report(1)),
    ("POST", "/api/pricing/batch", {"reports": [{"agent_id": "a", **report(2)}]}),
    ("GET", "/api/agents/a/pricing", None),
    ("GET", "/api/agents/a/sef-status", None),
    ("GET", "/api/agents/a/events", None),
    ("GET", "/api/agents", None),
    ("PUT", "/api/agents/b", {}),
    ("POST", "/api/agents/a/auto-switch/enable", None),
    ("POST", "/api/agents/a/manual-replica/enable", None),
    ("POST", "/api/agents/a/manual-switch", None),
    (
        "POST",
        "/api/agents/a/interruption",
        {"signal_type": "rebalance-recommendation", "timestamp": T.isoformat()},
    ),
    ("GET", "/readyz", None),
]


def test_calls_return_503_while_the_database_is_away_and_succeed_afterwards(
    client: FlaskClient, mariadb: PrivateServer, mariadb_url: str
) -> None:
    assert client.post("/api/agents/a/pricing", json=report()).status_code == 200
    with away(mariadb):
        for method, path, body in CALLS:
            answer = client.open(path, method=method, json=body)
            assert (method, path, answer.status_code) == (method, path, 503)
            assert answer.headers["Retry-After"].isdigit()
            assert answer.json == {
                "status": "error",
                "reason": "database_unavailable",
                "message": "The database cannot be reached; try again.",
            }
        assert client.get("/healthz").status_code == 200
    for path in ("/api/agents/a/sef-status", "/readyz"):
        assert client.get(path).status_code == 200
    assert client.post("/api/agents/a/pricing", json=report(10)).status_code == 200
    assert [point.at for point in stored_points(mariadb_url, "a", "p")] == [
        T,
        T + timedelta(minutes=10),
    ]
    assert row_counts(mariadb_url)["agents"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param("POST", "/api/agents/a/pricing", report(1), id="a report"),
        pytest.param("GET", "/api/agents/a/pricing", None, id="the series"),
        pytest.param("GET", "/readyz", None, id="readiness"),
    ],
)
def test_the_first_request_after_a_database_restart_succeeds(
    client: FlaskClient, mariadb: PrivateServer, method: str, path: str, body: Any
) -> None:
    assert client.post("/api/agents/a/pricing", json=report()).status_code == 200
    with away(mariadb):
        pass  # no request in between: the pool still holds the broken connections
    answer = client.open(path, method=method, json=body)
    assert answer.status_code == 200, answer.json


def kill_all_connections(mariadb: PrivateServer) -> int:
    connection = mariadb.connect()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM information_schema.processlist "
            "WHERE db LIKE 'sef_%' AND id <> CONNECTION_ID()"
        )
        numbers = [row[0] for row in cursor.fetchall()]
        for number in numbers:
            cursor.execute(f"KILL {number}")
    connection.close()
    return len(numbers)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param("POST", "/api/agents/a/pricing", report(1), id="a report"),
        pytest.param(
            "POST",
            "/api/pricing/batch",
            {"reports": [{"agent_id": "a", **report(2)}]},
            id="a batch",
        ),
        pytest.param("GET", "/api/agents/a/pricing", None, id="the series"),
        pytest.param("GET", "/api/agents/a/sef-status", None, id="the status"),
        pytest.param("GET", "/readyz", None, id="readiness"),
    ],
)
def test_requests_succeed_after_idle_connections_were_killed(
    client: FlaskClient, mariadb: PrivateServer, method: str, path: str, body: Any
) -> None:
    def ask(_: int) -> int:
        own = client.application.test_client()
        return own.open(path, method=method, json=body).status_code

    assert client.post("/api/agents/a/pricing", json=report()).status_code == 200
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(40))) == {200}
        assert kill_all_connections(mariadb) > 0
        assert set(threads.map(ask, range(40))) == {200}


def test_a_connection_that_breaks_at_commit_raises_unavailable(
    mariadb: PrivateServer, mariadb_url: str
) -> None:
    """The result of the COMMIT is unknown, so SEF neither acknowledges nor repeats it."""
    database = Database(mariadb_url)
    database.create_tables()
    calls = []

    def work(connection: Connection) -> None:
        calls.append(1)
        connection.execute(insert(agents).values(id="a", created_at=T, updated_at=T))
        mariadb.execute(f"KILL {connection.scalar(text('SELECT CONNECTION_ID()'))}")

    try:
        with pytest.raises(Unavailable):
            database.write(work)
        assert len(calls) == 1
        assert database.read(lambda c: c.scalar(text("SELECT 1"))) == 1
    finally:
        database.dispose()


@pytest.fixture(scope="module")
def durable(mariadb: PrivateServer) -> Iterator[PrivateServer]:
    """Yield a server that flushes at every commit, as a production server does."""
    server = type(mariadb)(durable=True)
    try:
        server.start()
        server.execute("CREATE DATABASE durable CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        yield server
    finally:
        server.remove()


def test_acknowledged_reports_survive_a_killed_database(
    durable: PrivateServer, tmp_path: Path
) -> None:
    url = durable.url("durable")
    server = Server(tmp_path, url, SEF_CLOUD="aws")
    acknowledged: list[tuple[str, datetime]] = []
    codes: set[int] = set()
    has_failed = threading.Event()

    def stream(agent_id: str) -> None:
        session = requests.Session()
        number = 0
        while not has_failed.is_set():
            body = report(number)
            answer = session.post(
                f"{server.url}/api/agents/{agent_id}/pricing", json=body, timeout=LIMIT
            )
            codes.add(answer.status_code)
            if answer.ok:
                acknowledged.append((agent_id, datetime.fromisoformat(body["timestamp"])))
            else:
                has_failed.set()
            number += 1

    try:
        # Enough threads that many reports share a transaction, and some share a series.
        with ThreadPoolExecutor(20) as threads:
            streams = [threads.submit(stream, f"agent-{number % 15}") for number in range(20)]
            until(lambda: len(acknowledged) >= 500 or has_failed.is_set())
            durable.kill()
            for done in streams:
                done.result()
        assert codes == {200, 503}
        assert len(acknowledged) >= 500
        assert requests.get(f"{server.url}/readyz", timeout=LIMIT).status_code == 503

        durable.start()

        answer = requests.post(
            f"{server.url}/api/agents/agent-0/pricing", json=report(100_000), timeout=LIMIT
        )
        assert answer.status_code == 200, answer.text
        assert requests.get(f"{server.url}/readyz", timeout=LIMIT).status_code == 200
    finally:
        server.stop()
    stored = {
        (agent_id, point.at)
        for agent_id in {agent_id for agent_id, _ in acknowledged}
        for point in stored_points(url, agent_id, "p")
    }
    assert set(acknowledged) - stored == set()
