"""POST /api/pricing/batch."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient

from tests.db.rows import add_ready_standby, row_counts, stored_points

T = 1637500000


def report(**fields: Any) -> dict[str, Any]:
    return {"agent_id": "a", "spot_price": 0.05, "pool_id": "p", "timestamp": T} | fields


def post(client: FlaskClient, *reports: Any) -> Any:
    answer = client.post("/api/pricing/batch", json={"reports": reports})
    assert answer.status_code == 200, answer.json
    result = answer.json
    assert result.keys() == {
        "status",
        "accepted",
        "buffered",
        "duplicates",
        "interpolated",
        "rejected",
    }
    outcomes = ("accepted", "buffered", "duplicates")
    counted = sum(result[name] for name in outcomes) + len(result["rejected"])
    assert counted == len(reports)
    return result


def test_an_empty_batch_stores_nothing(client: FlaskClient, database_url: str) -> None:
    before = row_counts(database_url)
    assert post(client) == {
        "status": "success",
        "accepted": 0,
        "buffered": 0,
        "duplicates": 0,
        "interpolated": 0,
        "rejected": [],
    }
    assert row_counts(database_url) == before


@pytest.mark.databases("sqlite", "mariadb")
def test_a_batch_may_hold_several_agents_and_pools(client: FlaskClient, database_url: str) -> None:
    result = post(
        client,
        report(timestamp=T + 1200),
        report(agent_id="b"),
        report(pool_id="q"),
        report(),
        report(agent_id="b", is_replica=True, spot_price=0.0502),
    )
    assert (result["accepted"], result["interpolated"]) == (5, 3)
    flags = {
        (agent, pool): [str(point.flag) for point in stored_points(database_url, agent, pool)]
        for agent in "ab"
        for pool in "pq"
    }
    assert flags == {
        ("a", "p"): ["normal", "interpolated", "interpolated", "interpolated", "normal"],
        ("a", "q"): ["normal"],
        ("b", "p"): ["averaged_dual_source"],
        ("b", "q"): [],
    }


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param(None, "invalid_body", id="null"),
        pytest.param(7, "invalid_body", id="a number"),
        pytest.param("report", "invalid_body", id="text"),
        pytest.param([], "invalid_body", id="a list"),
        pytest.param({}, "invalid_agent_id", id="an empty object"),
        pytest.param(report(agent_id=None), "invalid_agent_id", id="no agent"),
        pytest.param(report(agent_id="a\r\nb"), "invalid_agent_id", id="an agent of two lines"),
        pytest.param(report(agent_id=["a"]), "invalid_agent_id", id="an agent in a list"),
        pytest.param(report(agent_id="a" * 65), "invalid_agent_id", id="a long agent"),
        pytest.param(report(spot_price=-1), "spot_price_not_positive", id="a negative price"),
        pytest.param(report(spot_price={}), "invalid_spot_price", id="a price that is an object"),
        pytest.param(report(pool_id="\ud800"), "invalid_pool_id", id="half a character"),
        pytest.param(report(timestamp=None), "missing_timestamp", id="no time"),
    ],
)
def test_a_bad_report_is_rejected_alone(
    module_client: FlaskClient, module_database: str, bad: Any, reason: str
) -> None:
    agent = uuid4().hex
    result = post(
        module_client, report(agent_id=agent), bad, report(agent_id=agent, timestamp=T + 60)
    )
    assert result["accepted"] == 2
    ((index, found_reason, message),) = [tuple(entry.values()) for entry in result["rejected"]]
    assert (index, found_reason) == (1, reason)
    assert message.endswith((".", "-"))
    assert len(stored_points(module_database, agent, "p")) == 2


@pytest.mark.databases("sqlite", "mariadb")
def test_repeats_are_counted_as_duplicates(client: FlaskClient) -> None:
    assert post(client, report(), report(), report())["duplicates"] == 2
    assert post(client, report(), report(timestamp=T + 1))["duplicates"] == 1


@pytest.mark.databases("sqlite", "mariadb")
def test_the_last_correction_in_a_batch_is_stored(client: FlaskClient, database_url: str) -> None:
    result = post(client, report(spot_price=0.05), report(spot_price=0.06), report(spot_price=0.07))
    assert result["duplicates"] == 0
    assert [float(point.price) for point in stored_points(database_url, "a", "p")] == [0.07]


@pytest.mark.databases("sqlite", "mariadb")
def test_buffered_reports_are_counted(client: FlaskClient, database_url: str) -> None:
    post(client, report(timestamp=T - 3600))
    add_ready_standby(database_url, "a", datetime.now(UTC))
    result = post(
        client,
        report(),
        report(is_replica=True),
        report(timestamp=T + 600),
        report(agent_id="b"),
        report(timestamp=T + 600),
    )
    assert (result["accepted"], result["buffered"], result["duplicates"]) == (3, 1, 1)


@pytest.mark.databases("sqlite", "mariadb")
def test_a_batch_of_ten_thousand_reports_is_stored(client: FlaskClient, database_url: str) -> None:
    # 40 agents, a price a minute: no gap to fill, and a series spans several transactions.
    reports = [report(agent_id=f"a{n % 40}", timestamp=T + n // 40 * 60) for n in range(10_000)]
    result = post(client, *reports)
    assert (result["accepted"], result["interpolated"]) == (10_000, 0)
    assert row_counts(database_url)["pricing_reports"] == 10_000


def test_a_larger_batch_is_rejected_as_a_whole(client: FlaskClient, database_url: str) -> None:
    before = row_counts(database_url)
    answer = client.post("/api/pricing/batch", json={"reports": [report()] * 10_001})
    assert (answer.status_code, answer.json["reason"]) == (400, "batch_too_large")
    assert row_counts(database_url) == before


@pytest.mark.parametrize(
    "body",
    [
        pytest.param([], id="a list"),
        pytest.param(None, id="null"),
        pytest.param("reports", id="text"),
        pytest.param({}, id="no reports"),
        pytest.param({"reports": None}, id="null reports"),
        pytest.param({"reports": {}}, id="an object of reports"),
        pytest.param({"reports": "all"}, id="reports as text"),
    ],
)
def test_a_body_without_a_list_of_reports_is_rejected(
    module_client: FlaskClient, module_database: str, body: Any
) -> None:
    before = row_counts(module_database)
    answer = module_client.post("/api/pricing/batch", data=json.dumps(body))
    assert (answer.status_code, answer.json["reason"]) == (400, "invalid_body")
    assert row_counts(module_database) == before
