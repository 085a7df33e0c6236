"""GET /api/agents/<id>/events."""

from datetime import datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

T = 1637500000


@pytest.fixture(scope="module")
def lived(module_client: FlaskClient) -> FlaskClient:
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


def test_an_agents_history_is_told_newest_first(lived: FlaskClient) -> None:
    told = get(lived)
    assert told["next_before"] is None
    assert [event["event_type"] for event in told["events"]] == [
        *["price_gap"] * 4,
        "agent_registered",
    ]
    ids = [event["id"] for event in told["events"]]
    assert ids == sorted(ids, reverse=True)


def test_an_event_says_what_when_and_how_grave(lived: FlaskClient) -> None:
    newest = get(lived, "?limit=1")["events"][0]
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


def test_every_message_begins_with_the_name(lived: FlaskClient) -> None:
    assert all(event["message"].startswith("SEF: ") for event in get(lived)["events"])


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
def test_pages_join_to_the_whole(lived: FlaskClient, limit: int) -> None:
    whole = get(lived)["events"]
    found: list[Any] = []
    page = get(lived, f"?limit={limit}")
    while page["next_before"] is not None:
        found += page["events"]
        page = get(lived, f"?limit={limit}&before={page['next_before']}")
    assert found + page["events"] == whole


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
def test_a_query_that_cannot_be_read_is_refused(
    lived: FlaskClient, query: str, reason: str
) -> None:
    answer = lived.get(f"/api/agents/a/events?{query}")
    assert (answer.status_code, answer.json["reason"]) == (400, reason)


def test_the_highest_id_can_be_asked_for(lived: FlaskClient) -> None:
    assert len(get(lived, "?before=9223372036854775807")["events"]) == 5


def test_an_unknown_agent_has_no_history(lived: FlaskClient) -> None:
    answer = lived.get("/api/agents/nobody/events")
    assert (answer.status_code, answer.json["reason"]) == (404, "agent_not_found")
