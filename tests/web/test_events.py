"""GET /api/agents/<id>/events."""

from datetime import datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

T = 1637500000


@pytest.fixture(scope="module")
def agent(module_client: FlaskClient) -> FlaskClient:
    """An agent with five events, and another with one."""
    for agent_id, hours in (("b", 1), ("a", 5)):
        for hour in range(hours):
            body = {"spot_price": 0.05, "pool_id": "p", "timestamp": T + hour * 3600}
            answer = module_client.post(f"/api/agents/{agent_id}/pricing", json=body)
            assert answer.status_code == 200
    return module_client


def get(client: FlaskClient, query: str = "") -> Any:
    answer = client.get(f"/api/agents/a/events{query}")
    assert answer.status_code == 200, answer.json
    assert answer.json.keys() == {"status", "events", "next_before"}
    return answer.json


@pytest.mark.databases("sqlite", "mariadb")
def test_events_are_listed_newest_first(agent: FlaskClient) -> None:
    page = get(agent)
    assert page["next_before"] is None
    assert [event["event_type"] for event in page["events"]] == [
        *["price_gap"] * 4,
        "agent_registered",
    ]
    ids = [event["id"] for event in page["events"]]
    assert ids == sorted(ids, reverse=True)


@pytest.mark.databases("sqlite", "mariadb")
def test_an_event_has_message_severity_metadata_and_time(agent: FlaskClient) -> None:
    newest = get(agent, "?limit=1")["events"][0]
    assert newest.keys() == {
        "id",
        "event_type",
        "severity",
        "incident_id",
        "message",
        "metadata",
        "created_at",
    }
    assert newest["severity"] == "warning"
    assert newest["message"] == "SEF: No price of p for 3600 s; the gap is too wide to interpolate"
    assert newest["metadata"] == {
        "pool_id": "p",
        "from": "2021-11-21T16:06:40Z",
        "to": "2021-11-21T17:06:40Z",
    }
    assert datetime.fromisoformat(newest["created_at"]).tzinfo is not None


def test_every_message_begins_with_sef(agent: FlaskClient) -> None:
    assert all(event["message"].startswith("SEF: ") for event in get(agent)["events"])


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
def test_pages_join_to_the_whole(agent: FlaskClient, limit: int) -> None:
    whole = get(agent)["events"]
    joined: list[Any] = []
    page = get(agent, f"?limit={limit}")
    while page["next_before"] is not None:
        joined += page["events"]
        page = get(agent, f"?limit={limit}&before={page['next_before']}")
    assert joined + page["events"] == whole


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("limit=0", "invalid_limit"),
        ("limit=10001", "invalid_limit"),
        ("before=0", "invalid_before"),
        ("before=x", "invalid_before"),
        ("before=-1", "invalid_before"),
        ("before=9223372036854775808", "invalid_before"),
    ],
)
def test_an_invalid_query_is_rejected(agent: FlaskClient, query: str, reason: str) -> None:
    answer = agent.get(f"/api/agents/a/events?{query}")
    assert (answer.status_code, answer.json["reason"]) == (400, reason)


@pytest.mark.databases("sqlite", "mariadb")
def test_a_page_may_end_before_the_highest_id(agent: FlaskClient) -> None:
    assert len(get(agent, "?before=9223372036854775807")["events"]) == 5


def test_an_unknown_agent_is_not_found(agent: FlaskClient) -> None:
    answer = agent.get("/api/agents/nobody/events")
    assert (answer.status_code, answer.json["reason"]) == (404, "agent_not_found")
