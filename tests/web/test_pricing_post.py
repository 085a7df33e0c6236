"""POST /api/agents/<id>/pricing."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from sef.prices.series import Point
from sef.terms import Flag
from tests.db.rows import add_ready_standby, events, row_counts, stored_points, waiting_sources
from tests.prices.test_reports_written_together import HeldDatabase
from tests.web.conftest import NO_CLOUD

T = 1637500000
AT = datetime(2021, 11, 21, 13, 6, 40, tzinfo=UTC)
NORMAL = {"status": "success", "data_quality": "normal", "interpolated": 0}


def report(**fields: Any) -> dict[str, Any]:
    return {"spot_price": 0.05, "pool_id": "pool-123", "timestamp": T} | fields


def post(client: FlaskClient, agent_id: str = "a", **fields: Any) -> Any:
    answer = client.post(f"/api/agents/{agent_id}/pricing", json=report(**fields))
    assert answer.status_code == 200, answer.json
    return answer.json


@pytest.mark.parametrize(
    ("fields", "price", "at"),
    [
        pytest.param({}, "0.05", AT, id="required fields only"),
        pytest.param({"is_replica": False}, "0.05", AT, id="is_replica false"),
        pytest.param({"instance_id": "i-0abc"}, "0.05", AT, id="with its instance"),
        pytest.param({"instance_id": None}, "0.05", AT, id="with a null instance"),
        pytest.param({"something": "else"}, "0.05", AT, id="with an unknown field"),
        pytest.param({"spot_price": 3}, "3", AT, id="a whole number of dollars"),
        pytest.param({"spot_price": 1000}, "1000", AT, id="the highest price"),
        pytest.param({"spot_price": 1e-8}, "0.00000001", AT, id="the lowest price"),
        pytest.param({"spot_price": 0.123456785}, "0.12345678", AT, id="half to even: down"),
        pytest.param({"spot_price": 0.123456775}, "0.12345678", AT, id="half to even: up"),
        pytest.param({"spot_price": 999.99999999}, "999.99999999", AT, id="every digit is kept"),
        pytest.param(
            {"timestamp": T + 0.25}, "0.05", AT + timedelta(seconds=0.25), id="a fraction"
        ),
        pytest.param({"timestamp": "2021-11-21T13:06:40Z"}, "0.05", AT, id="ISO 8601 in UTC"),
        pytest.param({"timestamp": "2021-11-21T15:06:40+02:00"}, "0.05", AT, id="ISO, an offset"),
        pytest.param(
            {"timestamp": "2021-11-21T13:06:40.123456Z"},
            "0.05",
            AT + timedelta(microseconds=123456),
            id="ISO, microseconds",
        ),
        pytest.param(
            {"timestamp": "2006-01-01T00:00:00Z"},
            "0.05",
            datetime(2006, 1, 1, tzinfo=UTC),
            id="the earliest time",
        ),
    ],
)
@pytest.mark.databases("sqlite", "mariadb")
def test_a_report_is_stored_as_sent(
    module_client: FlaskClient,
    module_database: str,
    fields: dict[str, Any],
    price: str,
    at: datetime,
) -> None:
    agent = uuid4().hex
    assert post(module_client, agent, **fields) == NORMAL
    value = Decimal(price)
    assert stored_points(module_database, agent, "pool-123") == [
        Point(at, value, Flag.NORMAL, primary=value)
    ]


@pytest.mark.parametrize(
    "agent_id",
    [
        pytest.param("a", id="one character"),
        pytest.param("A" * 64, id="64 characters"),
        pytest.param("team/eu@web:1._-", id="every allowed character"),
        pytest.param("/a", id="a slash in front"),
        pytest.param("a//b", id="two slashes"),
        pytest.param("a/", id="a slash at the end"),
        pytest.param("a/pricing", id="like a route"),
    ],
)
@pytest.mark.databases("sqlite", "mariadb")
def test_ids_are_stored_unchanged(
    module_client: FlaskClient, module_database: str, agent_id: str
) -> None:
    assert post(module_client, agent_id, pool_id="p" * 128) == NORMAL
    assert len(stored_points(module_database, agent_id, "p" * 128)) == 1


@pytest.mark.databases("sqlite", "mariadb")
def test_ids_that_differ_in_case_are_different(client: FlaskClient, database_url: str) -> None:
    post(client, "web", pool_id="pool")
    post(client, "Web", pool_id="pool")
    post(client, "web", pool_id="Pool")
    counts = row_counts(database_url)
    assert (counts["agents"], counts["price_series"], counts["pricing_reports"]) == (2, 3, 3)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"spot_price": None}, "missing_spot_price", id="no price"),
        pytest.param({"spot_price": "0.05"}, "invalid_spot_price", id="a price as text"),
        pytest.param({"spot_price": 0}, "spot_price_not_positive", id="a price of zero"),
        pytest.param({"spot_price": 1000.00000001}, "spot_price_too_high", id="a high price"),
        pytest.param({"pool_id": ""}, "missing_pool_id", id="an empty pool"),
        pytest.param({"pool_id": "p" * 129}, "invalid_pool_id", id="a pool of 129 characters"),
        pytest.param({"instance_id": "i" * 65}, "invalid_instance_id", id="a long instance"),
        pytest.param({"timestamp": None}, "missing_timestamp", id="no time"),
        pytest.param({"timestamp": str(T)}, "invalid_timestamp", id="epoch seconds as text"),
        pytest.param({"timestamp": 1136073599}, "timestamp_too_old", id="2005"),
        pytest.param({"timestamp": T * 1000}, "invalid_timestamp", id="milliseconds"),
        pytest.param({"timestamp": 4102444800}, "timestamp_in_future", id="2100"),
        pytest.param({"is_replica": None}, "invalid_is_replica", id="is_replica as null"),
    ],
)
def test_an_invalid_report_is_rejected(
    module_client: FlaskClient, module_database: str, fields: dict[str, Any], reason: str
) -> None:
    """tests/test_parsing.py has the whole table of values."""
    before = row_counts(module_database)
    answer = module_client.post("/api/agents/a/pricing", json=report(**fields))
    assert answer.status_code == 400
    assert answer.json.keys() == {"status", "reason", "message"}
    assert (answer.json["status"], answer.json["reason"]) == ("error", reason)
    assert row_counts(module_database) == before


def test_a_clock_may_be_five_minutes_ahead(client: FlaskClient) -> None:
    now = datetime.now(UTC)
    assert post(client, timestamp=(now + timedelta(minutes=4)).isoformat()) == NORMAL
    late = report(timestamp=(now + timedelta(minutes=6)).isoformat())
    answer = client.post("/api/agents/a/pricing", json=late)
    assert (answer.status_code, answer.json["reason"]) == (400, "timestamp_in_future")


@pytest.mark.parametrize(
    ("first", "second", "price", "flag"),
    [
        pytest.param(
            {"spot_price": 0.0456},
            {"spot_price": 0.0458, "is_replica": True},
            "0.0457",
            Flag.AVERAGED,
            id="the primary first",
        ),
        pytest.param(
            {"spot_price": 0.0458, "is_replica": True, "timestamp": T + 30},
            {"spot_price": 0.0456},
            "0.0457",
            Flag.AVERAGED,
            id="the replica first, 30 s apart",
        ),
        pytest.param(
            {"spot_price": 0.00000001},
            {"spot_price": 0.00000001, "is_replica": True},
            "0.00000001",
            Flag.AVERAGED,
            id="the lowest price",
        ),
        pytest.param(
            {"spot_price": 0.05},
            {"spot_price": 0.04999999, "is_replica": True},
            "0.049999995",
            Flag.AVERAGED,
            id="an exact mean of one digit more",
        ),
        pytest.param(
            {"spot_price": 0.05},
            {"spot_price": 0.06, "is_replica": True},
            "0.05",
            Flag.DIVERGENT,
            id="too different",
        ),
    ],
)
@pytest.mark.databases("sqlite", "mariadb")
def test_a_pair_becomes_one_point_at_the_time_of_the_primary(
    client: FlaskClient,
    database_url: str,
    first: dict[str, Any],
    second: dict[str, Any],
    price: str,
    flag: Flag,
) -> None:
    assert post(client, **first) == NORMAL
    assert post(client, **second)["data_quality"] == flag
    (point,) = stored_points(database_url, "a", "pool-123")
    assert (point.at, point.price, point.flag) == (AT, Decimal(price), flag)
    assert len(events(database_url, "a", "divergent_prices")) == (flag is Flag.DIVERGENT)


@pytest.mark.databases("sqlite", "mariadb")
def test_reports_beyond_the_tolerance_are_two_points(
    client: FlaskClient, database_url: str
) -> None:
    post(client)
    assert post(client, is_replica=True, timestamp=T + 30.000001) == NORMAL
    assert len(stored_points(database_url, "a", "pool-123")) == 2


@pytest.mark.databases("sqlite", "mariadb")
def test_a_repeat_changes_nothing(client: FlaskClient, database_url: str) -> None:
    post(client)
    before = row_counts(database_url)
    assert post(client) == NORMAL
    assert row_counts(database_url) == before


@pytest.mark.databases("sqlite", "mariadb")
def test_a_correction_replaces_the_price_and_the_fill(
    client: FlaskClient, database_url: str
) -> None:
    post(client)
    post(client, timestamp=T + 1200)
    assert post(client, spot_price=0.08)["data_quality"] == "normal"
    prices = [point.price for point in stored_points(database_url, "a", "pool-123")]
    assert prices == [Decimal(p) for p in ("0.08", "0.0725", "0.065", "0.0575", "0.05")]


@pytest.mark.parametrize(
    ("gap", "filled", "reported"),
    [
        pytest.param(600, 0, 0, id="no gap yet"),
        pytest.param(600.000001, 2, 0, id="just a gap"),
        pytest.param(1200, 3, 0, id="20 minutes"),
        pytest.param(1800, 5, 0, id="the widest that is filled"),
        pytest.param(1800.000001, 0, 1, id="too wide"),
    ],
)
@pytest.mark.databases("sqlite", "mariadb")
def test_a_gap_is_filled_or_reported(
    client: FlaskClient, database_url: str, gap: float, filled: int, reported: int
) -> None:
    post(client)
    at = (AT + timedelta(seconds=gap)).isoformat()
    assert post(client, timestamp=at) == NORMAL | {"interpolated": filled}
    points = stored_points(database_url, "a", "pool-123")
    assert [p.flag for p in points] == [Flag.NORMAL, *[Flag.INTERPOLATED] * filled, Flag.NORMAL]
    assert len(events(database_url, "a", "price_gap")) == reported


@pytest.mark.databases("sqlite", "mariadb")
def test_a_real_point_in_a_filled_gap_replaces_the_fill(
    client: FlaskClient, database_url: str
) -> None:
    post(client)
    post(client, timestamp=T + 1200, spot_price=0.06)
    assert post(client, timestamp=T + 500, spot_price=0.09)["data_quality"] == "normal"
    points = [
        (int(p.at.timestamp()) - T, p.price, p.flag)
        for p in stored_points(database_url, "a", "pool-123")
    ]
    assert points == [
        (0, Decimal("0.05"), "normal"),
        (500, Decimal("0.09"), "normal"),
        (800, Decimal("0.077142857"), "interpolated"),
        (1100, Decimal("0.064285714"), "interpolated"),
        (1200, Decimal("0.06"), "normal"),
    ]


@pytest.mark.databases("sqlite", "mariadb")
def test_the_first_report_registers_its_agent(client: FlaskClient, database_url: str) -> None:
    post(client, instance_id="i-1")
    post(client, timestamp=T + 1, instance_id="i-2", pool_id="another")
    agent = client.get("/api/agents/a/sef-status").json["agent"]
    assert (agent["instance_id"], agent["pool_id"]) == ("i-1", "pool-123")
    assert len(events(database_url, "a", "agent_registered")) == 1


def test_a_report_of_a_replica_does_not_set_the_primary(client: FlaskClient) -> None:
    post(client, is_replica=True, instance_id="i-replica", pool_id="its-pool")
    agent = client.get("/api/agents/a/sef-status").json["agent"]
    assert (agent["instance_id"], agent["pool_id"]) == (None, None)


@pytest.mark.databases("sqlite", "mariadb")
def test_the_first_report_of_a_pair_is_buffered_while_there_is_a_standby(
    client: FlaskClient, database_url: str
) -> None:
    post(client, timestamp=T - 60)
    add_ready_standby(database_url, "a", datetime.now(UTC))
    assert post(client) == {"status": "buffered", "message": "Waiting for replica data"}
    assert waiting_sources(database_url, "a") == ["primary"]
    assert post(client, is_replica=True, spot_price=0.0502) == {
        "status": "success",
        "data_quality": "averaged_dual_source",
        "interpolated": 0,
    }
    assert waiting_sources(database_url, "a") == []


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no content type"),
        pytest.param({"Content-Type": "text/plain"}, id="text"),
        pytest.param(
            {"Content-Type": "application/x-www-form-urlencoded"}, id="the default of curl -d"
        ),
        pytest.param({"Content-Type": "nonsense"}, id="nonsense"),
    ],
)
def test_the_content_type_does_not_matter(
    module_client: FlaskClient, headers: dict[str, str]
) -> None:
    answer = module_client.post("/api/agents/a/pricing", data=json.dumps(report()), headers=headers)
    assert (answer.status_code, answer.json) == (200, NORMAL)


def test_a_report_beyond_the_queue_limit_is_rejected_as_overload(
    make_app: Callable[..., Flask],
) -> None:
    app = make_app(max_queued_reports=1, **NO_CLOUD)
    held = HeldDatabase(app.extensions["sef"])
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(post, app.test_client(), "a")
        held.wait_for(0)
        second = threads.submit(post, app.test_client(), "b")
        held.wait_for(1)
        answer = app.test_client().post("/api/agents/c/pricing", json=report())
        assert (answer.status_code, answer.json["reason"]) == (503, "overloaded")
        assert answer.headers["Retry-After"].isdigit()
        held.let_go()
        assert (first.result(), second.result()) == (NORMAL, NORMAL)
    assert post(app.test_client(), "c") == NORMAL
