"""Every statement of the API and of the jobs finds its rows by an index, however much is stored.

The statements are those that real calls make, listened to and explained on MariaDB.
"""

import re
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
"""More rows than this are not read, and not sorted, for one call."""
POOLS = [f"m5.large.us-east-1{zone}" for zone in "abcdef"]


def rows_of(table: Table) -> Iterator[dict[str, Any]]:
    """What a fleet leaves behind in a year."""
    count = AGENTS if table in (tables.agents, tables.price_series) else ROWS
    for number in range(count):
        yield MADE[table.name](number, f"agent-{number % AGENTS:05}", NOW - age(number))


def age(number: int) -> timedelta:
    return timedelta(days=1 + number % 364, seconds=number)


MADE: dict[str, Callable[[int, str, datetime], dict[str, Any]]] = {
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
        "primary_heard_at": NOW,
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
        "not_before": at,
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
        for table_name in MADE:
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


Said = list[tuple[str, Any]]


@contextmanager
def listened_to() -> Iterator[Said]:
    said: Said = []

    def listen(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        one = parameters[0] if isinstance(parameters, list) and parameters else parameters
        if statement.split(None, 1)[0] in ("SELECT", "UPDATE", "DELETE", "WITH"):
            said.append((statement, one))

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        yield said
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
"""One row per agent or series: what is about the whole fleet may read them all."""


def wasteful(url: str, said: Said, *, is_about_the_fleet: bool = False) -> list[str]:
    """The statements that read or sort many rows, with what the server plans to do."""
    found = {}
    with transaction(url) as connection:
        raw = connection.connection.cursor(dictionary=True)
        for statement, parameters in said:
            if statement not in found:
                raw.execute(f"EXPLAIN {statement}", parameters)
                found[statement] = [
                    step
                    for step in raw.fetchall()
                    if is_wasteful(step, statement)
                    and not (is_about_the_fleet and step["table"] in FLEET)
                ]
    return [f"{steps}\n{statement}" for statement, steps in found.items() if steps]


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


@pytest.mark.parametrize(
    ("method", "path", "body"),
    CALLS,
    # Without the time: the processes of a run must collect the same names.
    ids=[f"{method} {re.sub('=[0-9]{10}$', '=…', path)}" for method, path, _ in CALLS],
)
def test_no_call_reads_or_sorts_a_whole_table(
    app: Flask, database: str, method: str, path: str, body: Any
) -> None:
    with listened_to() as said:
        answer = app.test_client().open(path, method=method, json=body)
    assert answer.status_code in (200, 409), answer.json
    assert said
    is_about_the_fleet = path == "/api/pools"
    assert wasteful(database, said, is_about_the_fleet=is_about_the_fleet) == []


@pytest.mark.parametrize("job", JOBS, ids=[job.__name__ for job in JOBS])
def test_no_job_reads_or_sorts_a_whole_table(
    app: Flask, database: str, job: Callable[[SmartEmergencyFallback], Any]
) -> None:
    with listened_to() as said:
        job(app.extensions["sef"])
    assert said or job is SmartEmergencyFallback.deliver_notifications
    assert wasteful(database, said, is_about_the_fleet=True) == []


def test_a_scan_and_a_sort_are_found(database: str) -> None:
    said: Said = [
        ("SELECT * FROM system_events WHERE message = 'x'", ()),
        ("SELECT * FROM pricing_reports WHERE agent_id = 'agent-00000' ORDER BY spot_price", ()),
        ("SELECT * FROM agents WHERE id = 'a'", ()),
    ]
    assert len(wasteful(database, said)) == 2
