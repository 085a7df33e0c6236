"""Every statement of the API and of the jobs uses an index, on tables of a large fleet.

The tests record the statements of real calls and EXPLAIN them on MariaDB.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, Table, event, insert, text

from sef.db import tables
from sef.simulator.client import Simulation
from smart_emergency_fallback import SmartEmergencyFallback
from tests.db.rows import transaction
from tests.private_server import PrivateServer

NOW = datetime.now(UTC).replace(microsecond=0)
AGENTS = 2_000
ROWS = 10_000
FEW = 1_000
"""Maximum number of rows that a statement of one call may read or sort."""
Statements = list[tuple[str, Any]]
"""Statements with their parameters."""

POOLS = [f"m5.large.us-east-1{zone}" for zone in "abcdef"]


def rows_of(table: Table) -> Iterator[dict[str, Any]]:
    """Make the rows that a fleet leaves behind in a year."""
    count = AGENTS if table in (tables.agents, tables.price_series) else ROWS
    for number in range(count):
        yield ROW_OF[table.name](number, f"agent-{number % AGENTS:05}", NOW - age(number))


def age(number: int) -> timedelta:
    return timedelta(days=1 + number % 364, seconds=number)


ROW_OF: dict[str, Callable[[int, str, datetime], dict[str, Any]]] = {
    "agents": lambda n, agent, at: {
        "id": f"agent-{n:05}",
        "instance_id": f"i-{n:017x}",
        "pool_id": POOLS[n % 6],
        "created_at": at,
        "updated_at": at,
    },
    "price_series": lambda n, agent, at: {
        "agent_id": agent,
        "pool_id": POOLS[n % 6],
        "version": 1,
        "first_at": at - timedelta(days=30),
        "latest_at": at,
        "latest_price": 1,
        "latest_observed_at": at,
        "received_at": NOW,
    },
    "pricing_reports": lambda n, agent, at: {
        "agent_id": "agent-00000" if n % 2 else agent,
        "pool_id": POOLS[0],
        "timestamp": NOW - timedelta(minutes=5 * n),
        "spot_price": 1,
        "data_quality_flag": "normal",
        "primary_price": 1,
        "received_at": at,
    },
    "replica_instances": lambda n, agent, at: {
        "id": f"r-{n}",
        "agent_id": agent,
        "instance_id": f"i-r{n:016x}",
        "replica_type": "automatic-rebalance",
        "pool_id": POOLS[n % 6],
        "market": "spot",
        "status": "terminated" if n > 500 else "promoted",
        "reason": "long ago",
        "created_at": at,
        "launched_at": at,
        "ready_at": at,
        "terminated_at": at,
    },
    "launch_attempts": lambda n, agent, at: {
        "client_token": f"t-{n}",
        "replica_id": f"r-{n}",
        "attempt": 1,
        "pool_id": POOLS[n % 6],
        "market": "spot",
        "parameters": {},
        "launch_fingerprint": "s",
        "status": "launched",
        "instance_id": f"i-r{n:016x}",
        "created_at": at,
        "call_token": None if n % 3 else f"call-{n // 6}",
        "answered_at": at,
        "tagged_at": None if n % 3 else at,
    },
    "launch_calls": lambda n, agent, at: {
        "client_token": f"call-{n}",
        "parameters": {},
        "size": 2,
        "calls": 1,
        "made_at": at,
        "created_at": at,
    },
    "retirements": lambda n, agent, at: {
        "instance_id": f"i-o{n:016x}",
        "agent_id": agent,
        "reason": "long ago",
        "since": at,
        "terminate_after": at,
        "terminated_at": at,
    },
    "orphan_terminations": lambda n, agent, at: {
        "instance_id": f"i-f{n:016x}",
        "agent_id": agent,
        "decided_at": at,
        "reported_at": at,
    },
    "incidents": lambda n, agent, at: {
        "id": f"incident-{n}",
        "agent_id": agent,
        "subject": f"i-{n}",
        "instance_id": f"i-{n}",
        "pool_id": POOLS[n % 6],
        "status": "done",
        "goal": "standby",
        "reason": "long ago",
        "rebalance_at": at,
        "termination_at": at if n % 3 else None,
        "opened_at": at,
        "closed_at": at,
    },
    "spot_interruption_events": lambda n, agent, at: {
        "incident_id": f"incident-{n}",
        "agent_id": agent,
        "pool_id": POOLS[n % 6],
        "signal_type": "rebalance-recommendation",
        "detected_at": at,
        "signalled_at": at,
        "last_received_at": at,
    },
    "system_events": lambda n, agent, at: {
        "event_type": "e",
        "severity": "info",
        "agent_id": agent,
        "incident_id": f"incident-{n}",
        "message": "SEF: e",
        "created_at": at,
    },
    "idempotency_keys": lambda n, agent, at: {
        "idempotency_key": f"key-{n}",
        "agent_id": agent,
        "call": "manual-switch",
        "answer": {},
        "created_at": NOW - timedelta(seconds=n),
    },
}


@pytest.fixture(scope="module")
def database(mariadb: PrivateServer) -> Iterator[str]:
    name = "explained"
    mariadb.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    url = mariadb.url(name)
    SmartEmergencyFallback(url).close()
    with transaction(url) as connection:
        for table_name in ROW_OF:
            table = tables.metadata.tables[table_name]
            connection.execute(insert(table), list(rows_of(table)))
    with transaction(url) as connection:
        names = ", ".join(tables.metadata.tables)
        connection.execute(text(f"ANALYZE TABLE {names}")).all()
    yield url
    mariadb.drop(name)


@pytest.fixture
def database_url(database: str) -> str:
    return database


@contextmanager
def recorded_statements() -> Iterator[Statements]:
    statements: Statements = []

    def listen(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        row = parameters[0] if isinstance(parameters, list) and parameters else parameters
        if statement.split(None, 1)[0] in ("SELECT", "UPDATE", "DELETE", "WITH"):
            statements.append((statement, row))

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", listen)


def report(minute: int) -> dict[str, Any]:
    at = NOW + timedelta(minutes=minute)
    return {"spot_price": 1, "pool_id": POOLS[0], "timestamp": at.isoformat()}


def signal(kind: str) -> dict[str, Any]:
    return {"signal_type": kind, "timestamp": NOW.isoformat()}


A = "/api/agents/agent-00000"
B = "/api/agents/agent-00001"
CALLS: list[tuple[str, str, Any]] = [
    ("POST", f"{A}/pricing", report(1)),
    ("POST", f"{A}/pricing", report(-12_003)),
    ("POST", "/api/pricing/batch", {"reports": [{"agent_id": "agent-00002", **report(2)}] * 2}),
    ("GET", f"{A}/pricing", None),
    ("GET", f"{A}/pricing?limit=50", None),
    ("GET", f"{A}/pricing?pool_id={POOLS[0]}&from={NOW.timestamp() - 9000:.0f}", None),
    ("GET", f"{A}/sef-status", None),
    ("GET", f"{A}/events", None),
    ("GET", f"{A}/events?before=9000", None),
    ("GET", f"{A}/incidents", None),
    ("GET", "/api/incidents/incident-77", None),
    ("GET", "/api/agents", None),
    ("GET", "/api/agents?after=agent-00500", None),
    ("GET", "/api/pools", None),
    ("PUT", f"{B}", {"drill_interval": None}),
    ("POST", f"{B}/auto-switch/enable", None),
    ("POST", f"{B}/auto-switch/disable", None),
    ("POST", f"{B}/manual-replica/enable", None),
    ("POST", f"{B}/manual-switch", None),
    ("POST", f"{B}/manual-replica/disable", None),
    ("POST", f"{A}/interruption", signal("rebalance-recommendation")),
    ("POST", f"{A}/interruption", signal("termination-notice")),
    ("GET", "/readyz", None),
]

JOBS: list[Callable[[SmartEmergencyFallback], Any]] = [
    SmartEmergencyFallback.cleanup_old_buffers,
    SmartEmergencyFallback.reconcile,
    SmartEmergencyFallback.sweep_orphans,
    SmartEmergencyFallback.detect_losses,
    SmartEmergencyFallback.plan_switchovers,
    SmartEmergencyFallback.deliver_notifications,
    SmartEmergencyFallback.delete_old_prices,
    SmartEmergencyFallback.check_ready,
]


FLEET = {"agents", "price_series", "incidents"}
"""Tables with a row for each agent or series. Calls about the whole fleet may read all rows."""


class Explainer:
    """Explain statements, each distinct statement once."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._wasteful_steps: dict[str, list[dict[str, Any]]] = {}

    def wasteful(self, statements: Statements, *, is_about_the_fleet: bool = False) -> list[str]:
        """Return the statements that read or sort many rows, with the server's plan."""
        found = []
        with transaction(self._url) as connection:
            cursor = connection.connection.cursor(dictionary=True)
            for statement, parameters in statements:
                if statement not in self._wasteful_steps:
                    cursor.execute(f"EXPLAIN {statement}", parameters)
                    plan = cursor.fetchall()
                    self._wasteful_steps[statement] = [
                        step for step in plan if is_wasteful(step, statement)
                    ]
                steps = [
                    step
                    for step in self._wasteful_steps[statement]
                    if not (is_about_the_fleet and step["table"] in FLEET)
                ]
                if steps:
                    found.append(f"{steps}\n{statement}")
        return found


def is_wasteful(step: dict[str, Any], statement: str) -> bool:
    # "2000", or with what a filter lets through "2000 (3%)".
    reads_many = int(str(step["rows"] or 0).split()[0]) > FEW
    is_sorted = "filesort" in (step["Extra"] or "")
    # In the order of an index, reading ends with the LIMIT.
    ends_early = step["type"] == "index" and "LIMIT" in statement and not is_sorted
    scans = step["type"] in ("ALL", "index") and not ends_early
    return reads_many and (scans or is_sorted)


@pytest.fixture
def app(make_app: Callable[..., Flask], simulated_folder: Path, simulation: Simulation) -> Flask:
    return make_app(var=simulated_folder, launch_template="sef-default", price_retention_days=30)


def test_no_call_and_no_job_reads_or_sorts_a_whole_table(app: Flask, database: str) -> None:
    client, sef, explainer = app.test_client(), app.extensions["sef"], Explainer(database)
    found: dict[str, list[str]] = {}
    for method, path, body in CALLS:
        with recorded_statements() as statements:
            answer = client.open(path, method=method, json=body)
        call = f"{method} {path}"
        assert answer.status_code in (200, 409), (call, answer.json)
        assert statements, call
        found[call] = explainer.wasteful(statements, is_about_the_fleet=path == "/api/pools")
    for job in JOBS:
        with recorded_statements() as statements:
            job(sef)
        assert statements or job is SmartEmergencyFallback.deliver_notifications, job
        found[job.__name__] = explainer.wasteful(statements, is_about_the_fleet=True)
    assert {call: wasteful for call, wasteful in found.items() if wasteful} == {}


def test_a_scan_and_a_sort_are_found(database: str) -> None:
    statements: Statements = [
        ("SELECT * FROM system_events WHERE message = 'x'", ()),
        ("SELECT * FROM pricing_reports WHERE agent_id = 'agent-00000' ORDER BY spot_price", ()),
        ("SELECT * FROM agents WHERE id = 'a'", ()),
    ]
    assert len(Explainer(database).wasteful(statements)) == 2
