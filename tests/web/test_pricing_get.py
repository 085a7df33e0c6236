"""GET /api/agents/<id>/pricing."""

from typing import Any

import pytest
from flask.testing import FlaskClient

T = 1637500000


def iso_at(seconds: int) -> str:
    minutes, rest = divmod(6 * 60 + 40 + seconds, 60)
    return f"2021-11-21T13:{minutes:02}:{rest:02}Z"


@pytest.fixture(scope="module")
def agent(module_client: FlaskClient) -> FlaskClient:
    """Two series: 0.05 and 0.06 twenty minutes apart, and a pair."""
    reports: list[dict[str, Any]] = [
        {"pool_id": "p", "timestamp": T, "spot_price": 0.05},
        {"pool_id": "p", "timestamp": T + 1200, "spot_price": 0.06},
        {"pool_id": "q", "timestamp": T + 450, "spot_price": 0.0456},
        {"pool_id": "q", "timestamp": T + 451, "spot_price": 0.0458, "is_replica": True},
    ]
    body = {"reports": [{"agent_id": "a", **report} for report in reports]}
    assert module_client.post("/api/pricing/batch", json=body).json["accepted"] == 4
    return module_client


def get(client: FlaskClient, query: str = "") -> Any:
    answer = client.get(f"/api/agents/a/pricing{query}")
    assert answer.status_code == 200, answer.json
    assert answer.json.keys() == {"status", "points", "is_complete"}
    return answer.json


@pytest.mark.databases("sqlite", "mariadb")
def test_points_are_listed_oldest_first_with_their_flags(agent: FlaskClient) -> None:
    assert get(agent, "?pool_id=p")["points"] == [
        {"timestamp": at, "pool_id": "p", "spot_price": price, "data_quality": flag}
        for at, price, flag in [
            (iso_at(0), 0.05, "normal"),
            (iso_at(300), 0.0525, "interpolated"),
            (iso_at(600), 0.055, "interpolated"),
            (iso_at(900), 0.0575, "interpolated"),
            (iso_at(1200), 0.06, "normal"),
        ]
    ]


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        pytest.param("", [0, 300, 450, 600, 900, 1200], id="all pools together"),
        pytest.param("?pool_id=q", [450], id="one pool"),
        pytest.param("?pool_id=no-such-pool", [], id="a pool without reports"),
        pytest.param(f"?pool_id=p&from={T + 300}", [300, 600, 900, 1200], id="from, included"),
        pytest.param(f"?pool_id=p&to={T + 300}", [0, 300], id="to, included"),
        pytest.param(f"?from={T + 301}&to={T + 899}", [450, 600], id="between"),
        pytest.param(f"?from={T + 900}&to={T}", [], id="an empty span"),
        pytest.param(f"?from={T + 899.5}", [900, 1200], id="a fraction of a second"),
        pytest.param(f"?from={iso_at(900)}", [900, 1200], id="ISO 8601"),
        pytest.param("?from=2021-11-21T15:21:40%2B02:00", [900, 1200], id="an offset"),
        pytest.param("?from=2021-11-21T15:21:40+02:00", [900, 1200], id="an unescaped plus"),
        pytest.param("?pool_id=p&limit=2", [0, 300], id="at most two"),
        pytest.param("?limit=10000", [0, 300, 450, 600, 900, 1200], id="the highest limit"),
    ],
)
@pytest.mark.databases("sqlite", "mariadb")
def test_a_query_selects_pool_and_time(agent: FlaskClient, query: str, seconds: list[int]) -> None:
    times = [point["timestamp"] for point in get(agent, query)["points"]]
    assert times == [iso_at(second) for second in seconds]


def test_pages_join_to_the_whole_series(agent: FlaskClient) -> None:
    whole = get(agent, "?pool_id=p")["points"]
    pages: list[Any] = []
    query = "?pool_id=p&limit=2"
    while not (page := get(agent, query))["is_complete"]:
        pages += page["points"]
        query = f"?pool_id=p&limit=2&from={pages[-1]['timestamp'].replace('Z', '.000001Z')}"
    assert pages + page["points"] == whole


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7])
def test_only_the_last_page_is_complete(agent: FlaskClient, limit: int) -> None:
    page = get(agent, f"?limit={limit}")
    assert len(page["points"]) == min(limit, 6)
    assert page["is_complete"] == (limit > 6)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        pytest.param("limit=0", "invalid_limit", id="none"),
        pytest.param("limit=10001", "invalid_limit", id="too many"),
        pytest.param("limit=-1", "invalid_limit", id="less than none"),
        pytest.param("limit=", "invalid_limit", id="an empty limit"),
        pytest.param("limit=ten", "invalid_limit", id="a limit in words"),
        pytest.param("limit=1.5", "invalid_limit", id="one and a half"),
        pytest.param("limit=%D9%A3", "invalid_limit", id="an Arabic three"),
        pytest.param("limit=" + "9" * 5000, "invalid_limit", id="a very long number"),
        pytest.param("from=yesterday", "invalid_from", id="a word"),
        pytest.param("from=", "invalid_from", id="an empty from"),
        pytest.param("from=NaN", "invalid_from", id="not a number"),
        pytest.param("from=sNaN", "invalid_from", id="a signalling NaN"),
        pytest.param("to=Infinity", "invalid_to", id="infinite"),
        pytest.param("to=-1", "invalid_to", id="before 1970"),
        pytest.param("to=1e400", "invalid_to", id="too large"),
        pytest.param("to=1e999999999", "invalid_to", id="a huge exponent"),
        pytest.param("to=2021-11-21T13:06:40", "invalid_to", id="no offset"),
        pytest.param("to=9999-12-31T23:59:59-01:00", "invalid_to", id="the year 10000 in UTC"),
    ],
)
def test_an_invalid_query_is_rejected(agent: FlaskClient, query: str, reason: str) -> None:
    answer = agent.get(f"/api/agents/a/pricing?{query}")
    assert (answer.status_code, answer.json["reason"]) == (400, reason)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("pool_id=%00", id="a NUL in the pool"),
        pytest.param("pool_id=%FF", id="a pool that is not UTF-8"),
        pytest.param("pool_id=", id="an empty pool"),
        pytest.param("pool_id=" + "p" * 5000, id="a long pool"),
        pytest.param("to=9999-12-31T23:59:59Z", id="the end of the calendar"),
        pytest.param("from=0", id="1970"),
    ],
)
@pytest.mark.databases("sqlite", "mariadb")
def test_an_odd_query_is_answered(agent: FlaskClient, query: str) -> None:
    answer = agent.get(f"/api/agents/a/pricing?{query}")
    assert answer.status_code in (200, 400)
    assert answer.json["status"] == ("success" if answer.status_code == 200 else "error")


def test_an_unknown_agent_is_not_found(agent: FlaskClient) -> None:
    answer = agent.get("/api/agents/nobody/pricing")
    assert (answer.status_code, answer.json) == (
        404,
        {
            "status": "error",
            "reason": "agent_not_found",
            "message": "There is no agent nobody. PUT /api/agents/<id> registers an agent.",
        },
    )
