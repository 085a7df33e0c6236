"""Values at the edge of what a time or a number can hold, at every door: no call breaks by one."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from sef.errors import Refused, SefError
from sef.web.errors import register_fallback_handlers
from sef.web.failover import failover_blueprint
from sef.web.fleet import fleet_blueprint
from sef.web.prices import prices_blueprint
from smart_emergency_fallback import SmartEmergencyFallback, integrate_with_backend
from tests.commands.in_process import invoke
from tests.harness import ONCE, POOL, REBALANCE, TERMINATION, World

LAST = datetime.max.replace(tzinfo=UTC)
FIRST = datetime.min.replace(tzinfo=UTC)
EAST, WEST = timezone(timedelta(hours=23, minutes=59)), timezone(-timedelta(hours=23, minutes=59))

NUMBERS: list[Any] = [
    *(
        0,
        1,
        -1,
        599,
        600,
        31_536_000,
        31_536_001,
        2**31,
        2**53,
        2**63 - 1,
        2**63,
        10**400,
        -(2**70),
    ),
    *(0.1, 1e-300, 1e11, -1e11, 1e15, 1e308, float("nan"), float("inf"), float("-inf"), True),
]
"""Numbers, some of which no column, timedelta or float can hold."""

TIMES: list[Any] = [
    *NUMBERS,
    *(253402300798, 253402300799, 253402300800, 253402300798.9999999),
    *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "0999-12-31T23:59:59-23:59"),
    *("1969-12-31T23:59:59Z", "1970-01-01T00:00:00+14:00", "2026-13-01T00:00:00Z"),
    *("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:59", "10000-01-01T00:00:00Z"),
    *("0000-01-01T00:00:00Z", "9999-W52-7T23:59:59-01:00", "nan", "inf", "1e11", "", [], {}),
]
"""Times as a report, a signal or a query may give them."""

DATETIMES: list[Any] = [
    *(FIRST, LAST, FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None)),
    *(FIRST.replace(tzinfo=zone) for zone in (EAST, WEST)),
    *(LAST.replace(tzinfo=zone) for zone in (EAST, WEST)),
    *(datetime(999, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z", 0, float("nan")),
]
"""Ends of a time span as a program may give them."""


@pytest.fixture
def sef(world: World) -> SmartEmergencyFallback:
    """SEF with an agent, its primary and a price."""
    sef = world.sef(probation_seconds=0, enable_wait_seconds=0)
    world.primary(sef)
    report(world, sef, timestamp=world.clock().isoformat())
    return sef


@pytest.fixture
def client(sef: SmartEmergencyFallback) -> FlaskClient:
    app = Flask(__name__)
    register_fallback_handlers(app)
    for blueprint in (fleet_blueprint, prices_blueprint, failover_blueprint):
        app.register_blueprint(blueprint(sef))
    integrate_with_backend(app, sef)
    return app.test_client()


def report(world: World, sef: SmartEmergencyFallback, **fields: Any) -> dict[str, Any]:
    payload = {"spot_price": 0.04, "pool_id": POOL, "timestamp": world.clock().isoformat()}
    return sef.process_incoming_data("a", "pricing", payload | fields)


def accepted_or_refused(call: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """Make a call that must return, or reject its input with a reason and a sentence."""
    error = refusal(call, *arguments, **named)
    if error is not None:
        assert error.reason.startswith(("invalid_", "unknown_", "missing_"))
        assert len(error.message.splitlines()) == 1


def refusal(call: Callable[..., Any], *arguments: Any, **named: Any) -> Refused | SefError | None:
    try:
        call(*arguments, **named)
    except (Refused, SefError) as error:
        return error
    return None


def works_on(world: World, sef: SmartEmergencyFallback) -> None:
    """Run the jobs and read the views, and then replace the primary."""
    for seconds in (1, 61, 400):
        world.settle(sef, seconds)
        sef.detect_losses()
        sef.plan_switchovers()
        sef.cleanup_old_buffers()
    assert sef.get_agent_status("a")["status"] == "success"
    for incident in sef.agent_incidents("a"):
        sef.get_incident(incident["id"])
    sef.price_series("a")
    sef.list_pools()
    serving = world.agent().instance_id
    world.signal(sef, TERMINATION, instance_id=serving)
    for _ in range(4):
        world.settle(sef, 10)
    assert world.agent().instance_id != serving


# The façade


@ONCE
@pytest.mark.parametrize("signal_type", [REBALANCE, TERMINATION])
def test_a_signal(world: World, sef: SmartEmergencyFallback, signal_type: str) -> None:
    primary = world.agent().instance_id
    now = world.clock().isoformat()
    for value in TIMES:
        for fields in ({"timestamp": value}, {"timestamp": now, "termination_time": value}):
            for names in ({}, {"instance_id": primary}):
                signal = {"signal_type": signal_type} | fields | names
                for dry_run in (True, False):
                    accepted_or_refused(sef.handle_interruption, "a", signal, dry_run=dry_run)
    works_on(world, sef)


def test_a_report(world: World, sef: SmartEmergencyFallback) -> None:
    for value in TIMES:
        for is_replica in (False, True):
            fields = {"timestamp": value, "is_replica": is_replica}
            assert report(world, sef, **fields)["status"] in ("success", "buffered", "rejected")
            entry = {"agent_id": "a", "pool_id": POOL, "spot_price": 0.04} | fields
            sef.process_batch([entry, entry])
    for value in [*NUMBERS, Decimal("1e999999"), Decimal("-1e-999999"), Decimal("sNaN")]:
        assert report(world, sef, spot_price=value)["status"] in ("success", "buffered", "rejected")
    works_on(world, sef)


def test_the_ends_of_a_series(world: World, sef: SmartEmergencyFallback) -> None:
    for value in DATETIMES:
        accepted_or_refused(sef.price_series, "a", start=value)
        accepted_or_refused(sef.price_series, "a", end=value)
    assert len(sef.price_series("a", start=FIRST, end=LAST)) == 1
    assert len(sef.price_series("a", start=datetime(1200, 1, 1, tzinfo=UTC))) == 1
    assert sef.price_series("a", end=FIRST) == sef.price_series("a", start=LAST) == []


def test_the_size_of_a_page(world: World, sef: SmartEmergencyFallback) -> None:
    for value in [*NUMBERS, "10", None]:
        for call in (
            lambda value=value: sef.price_series("a", limit=value),
            lambda value=value: sef.list_agents(limit=value),
            lambda value=value: sef.agent_events("a", limit=value),
            lambda value=value: sef.agent_events("a", before=value),
            lambda value=value: sef.agent_incidents("a", limit=value),
        ):
            accepted_or_refused(call)
    assert len(sef.price_series("a", limit=10**30)) == 1
    assert len(sef.agent_events("a", limit=10**30, before=10**30)) > 0


def test_a_drill_interval(world: World, sef: SmartEmergencyFallback) -> None:
    for value in [*NUMBERS, "600", Decimal(600)]:
        for agent_id in ("a", "new"):
            accepted_or_refused(sef.register_agent, agent_id, {"drill_interval": value})
    assert world.agent().drill_interval == 31_536_000
    works_on(world, sef)


def test_a_number_of_a_cutover_target(world: World, sef: SmartEmergencyFallback) -> None:
    arn = "arn:aws:elasticloadbalancing:us-east-1:1:targetgroup/web/1"
    dns = {"zone_id": "Z1234567890", "name": "web.example.com", "type": "A"}
    for value in NUMBERS:
        for cutover in (
            {"dns": [dns | {"ttl": value}]},
            {"target_groups": [{"arn": arn, "port": value}]},
        ):
            accepted_or_refused(sef.register_agent, "b", {"cutover": cutover})
    sef.register_agent("b", {"cutover": None})


def test_the_duration_of_a_lease(sef: SmartEmergencyFallback) -> None:
    assert sef.holds_lease("job", timedelta.max)
    assert sef.holds_lease("job", timedelta(0))


# The HTTP API


def test_every_time_and_number_over_http(
    world: World, sef: SmartEmergencyFallback, client: FlaskClient
) -> None:
    now, primary = world.clock().isoformat(), world.agent().instance_id
    signal = {"signal_type": TERMINATION, "timestamp": now, "instance_id": primary}
    price = {"agent_id": "a", "pool_id": POOL, "spot_price": 0.04, "timestamp": now}
    dns = {"zone_id": "Z1234567890", "name": "web.example.com", "type": "A"}
    answers = []
    for value in TIMES:
        for path, body in (
            ("agents/a/interruption", signal | {"timestamp": value}),
            ("agents/a/interruption", signal | {"termination_time": value}),
            ("agents/a/pricing", price | {"timestamp": value}),
            ("agents/a/pricing", price | {"spot_price": value}),
            ("pricing/batch", {"reports": [price | {"timestamp": value}]}),
        ):
            answers.append((path, value, client.post(f"/api/{path}", json=body)))
        line = json.dumps(price | {"timestamp": value})
        ndjson = {"data": f"{line}\n", "content_type": "application/x-ndjson"}
        answers.append(("ndjson", value, client.post("/api/pricing/batch", **ndjson)))
        for body in ({"drill_interval": value}, {"cutover": {"dns": [dns | {"ttl": value}]}}):
            answers.append(("put", value, client.put("/api/agents/b", json=body)))
        for path, name in (
            ("agents/a/pricing", "from"),
            ("agents/a/pricing", "to"),
            ("agents/a/pricing", "limit"),
            ("agents", "limit"),
            ("agents/a/events", "limit"),
            ("agents/a/events", "before"),
            ("agents/a/incidents", "limit"),
        ):
            query = {name: str(value)}
            answers.append((path, value, client.get(f"/api/{path}", query_string=query)))
    wrong = [
        (path, value) for path, value, answer in answers if answer.status_code not in (200, 400)
    ]
    assert wrong == []
    assert client.put("/api/agents/b", json={"cutover": None}).status_code == 200
    works_on(world, sef)
    assert client.get("/api/agents/a/sef-status").status_code == 200


# The command line


def test_an_import(database_url: str, tmp_path: Path) -> None:
    texts = [str(value) for value in TIMES]
    ndjson, csv = tmp_path / "prices.ndjson", tmp_path / "prices.csv"
    price = {"agent_id": "a", "pool_id": POOL, "spot_price": 0.04}
    ndjson.write_text(
        "".join(f"{json.dumps(price | {'timestamp': value})}\n" for value in [*TIMES, *texts])
    )
    csv.write_text(
        "agent_id,pool_id,timestamp,spot_price\n"
        + "".join(f"a,{POOL},{text},0.04\na,{POOL},2026-01-01T00:00:00Z,{text}\n" for text in texts)
    )
    environment = {"SEF_VAR": str(tmp_path / "var"), "SEF_DATABASE_URL": database_url}
    for file in (ndjson, csv):
        result = invoke("import", str(file), environment=environment)
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
