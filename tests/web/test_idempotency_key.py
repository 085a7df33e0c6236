"""Idempotency-Key on the calls of operators: a repeat has no effect and gets the first answer."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.db.rows import events

KEY = "6fd0b2a2-6a0f-4d5e-9b9e-3d1a5f0f7c11"
FLIPS = [
    ("manual-replica/enable", "manual-replica/disable"),
    ("manual-replica/disable", "manual-replica/enable"),
    ("auto-switch/enable", "auto-switch/disable"),
    ("auto-switch/disable", "auto-switch/enable"),
    ("auto-terminate/enable", "auto-terminate/disable"),
    ("auto-terminate/disable", "auto-terminate/enable"),
]


@pytest.fixture
def agent(cloud_client: FlaskClient) -> FlaskClient:
    assert cloud_client.put("/api/agents/a", json={}).status_code == 200
    return cloud_client


@pytest.fixture
def manual(agent: FlaskClient) -> FlaskClient:
    """An agent with a ready standby."""
    assert call(agent, "manual-replica/enable").json["replica"]["status"] == "ready"
    return agent


def call(client: FlaskClient, path: str, key: str | None = None, agent: str = "a") -> TestResponse:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(f"/api/agents/{agent}/{path}", headers=headers)


def status(client: FlaskClient) -> Any:
    return client.get("/api/agents/a/sef-status").json


@pytest.mark.databases("sqlite", "mariadb")
def test_a_repeated_switch_switches_once_and_gets_the_first_answer(manual: FlaskClient) -> None:
    first = call(manual, "manual-switch", KEY)
    assert first.json["epoch"] == 2
    assert status(manual)["replica"]["status"] == "ready", "another switch would be possible"
    again = call(manual, "manual-switch", KEY)
    assert (again.status_code, again.json) == (200, first.json)
    shown = status(manual)["agent"]
    assert (shown["epoch"], shown["instance_id"]) == (2, first.json["new_instance_id"])


def test_without_a_key_or_with_a_new_key_every_call_switches(manual: FlaskClient) -> None:
    epochs = [call(manual, "manual-switch", key).json["epoch"] for key in (KEY, None, None, "k")]
    assert epochs == [2, 3, 4, 5]


@pytest.mark.parametrize(("path", "opposite"), FLIPS)
@pytest.mark.databases("sqlite", "mariadb")
def test_a_repeat_changes_nothing_after_the_opposite_call(
    agent: FlaskClient, database_url: str, path: str, opposite: str
) -> None:
    if path.endswith("disable"):
        call(agent, opposite)
    first = call(agent, path, KEY)
    assert first.status_code == 200
    call(agent, opposite)
    before, shown = len(events(database_url, "a", "mode_changed")), status(agent)["agent"]
    again = call(agent, path, KEY)
    assert (again.status_code, again.json) == (200, first.json)
    assert len(events(database_url, "a", "mode_changed")) == before
    assert status(agent)["agent"] == shown


def test_a_key_with_and_without_quotes_is_the_same(manual: FlaskClient) -> None:
    bare, quoted = call(manual, "manual-switch", KEY), call(manual, "manual-switch", f'"{KEY}"')
    assert quoted.json == bare.json
    odd = [call(manual, "auto-switch/disable", key).json for key in ('"a\\"b"', 'a"b')]
    assert odd[0] == odd[1]


@pytest.mark.parametrize(
    ("path", "agent_id"),
    [("manual-replica/enable", "a"), ("auto-switch/disable", "b"), ("auto-switch/enable", "a")],
)
@pytest.mark.databases("sqlite", "mariadb")
def test_a_key_of_another_call_or_agent_is_rejected(
    agent: FlaskClient, path: str, agent_id: str
) -> None:
    agent.put("/api/agents/b", json={})
    assert call(agent, "auto-switch/disable", KEY).status_code == 200
    before = status(agent)
    refused = call(agent, path, KEY, agent_id)
    assert (refused.status_code, refused.json["reason"]) == (422, "idempotency_key_reused")
    assert status(agent) == before


@pytest.mark.databases("sqlite", "mariadb")
def test_a_rejected_call_is_not_stored(agent: FlaskClient) -> None:
    for _ in range(2):
        refused = call(agent, "manual-switch", KEY)
        assert (refused.status_code, refused.json["reason"]) == (409, "manual_mode_not_enabled")
    call(agent, "manual-replica/enable")
    assert call(agent, "manual-switch", KEY).json["epoch"] == 2
    call(agent, "manual-replica/disable")
    assert call(agent, "manual-switch", KEY).json["epoch"] == 2, "the answer of an effect is stored"


def test_an_unknown_agent_is_not_found_with_a_key_either(agent: FlaskClient) -> None:
    for _ in range(2):
        refused = call(agent, "manual-replica/enable", KEY, "nobody")
        assert (refused.status_code, refused.json["reason"]) == (404, "agent_not_found")


@pytest.mark.parametrize("key", ["", "  ", "x" * 256, "käse"])
@pytest.mark.databases("sqlite", "mariadb")
def test_an_invalid_key_is_rejected(agent: FlaskClient, key: str) -> None:
    refused = call(agent, "auto-switch/enable", key)
    assert (refused.status_code, refused.json["reason"]) == (400, "invalid_idempotency_key")
    assert status(agent)["mode"] == "emergency_only"
    assert call(agent, "auto-switch/enable", "x" * 255).status_code == 200
