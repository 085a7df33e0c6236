"""POST .../auto-switch and .../auto-terminate; auto modes and manual mode exclude each other."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.db.rows import events

AUTO = ["auto-switch", "auto-terminate"]
FLAGS = ["auto_switch_enabled", "auto_terminate_enabled", "manual_replica_enabled"]


@pytest.fixture
def agent(cloud_client: FlaskClient) -> FlaskClient:
    """A registered agent in no mode."""
    assert cloud_client.put("/api/agents/a", json={}).status_code == 200
    return cloud_client


def set_mode(client: FlaskClient, path: str) -> tuple[int, Any]:
    answer = client.post(f"/api/agents/a/{path}")
    return answer.status_code, answer.json


def flags(client: FlaskClient) -> list[bool]:
    agent = client.get("/api/agents/a/sef-status").json["agent"]
    return [agent[flag] for flag in FLAGS]


def test_each_auto_mode_is_enabled_and_disabled_by_itself(agent: FlaskClient) -> None:
    assert set_mode(agent, "auto-switch/enable") == (
        200,
        {"status": "success", "message": "auto-switch enabled"},
    )
    assert flags(agent) == [True, False, False]
    assert set_mode(agent, "auto-terminate/enable") == (
        200,
        {"status": "success", "message": "auto-terminate enabled"},
    )
    assert flags(agent) == [True, True, False]
    assert set_mode(agent, "auto-switch/disable") == (
        200,
        {"status": "success", "message": "auto-switch disabled"},
    )
    assert flags(agent) == [False, True, False]


@pytest.mark.parametrize("mode", AUTO)
@pytest.mark.databases("sqlite", "mariadb")
def test_a_repeated_call_changes_nothing(agent: FlaskClient, database_url: str, mode: str) -> None:
    for action in ("disable", "enable", "enable", "disable", "disable"):
        assert set_mode(agent, f"{mode}/{action}")[0] == 200
    assert len(events(database_url, "a", "mode_changed")) == 2


@pytest.mark.parametrize("mode", AUTO)
def test_manual_mode_conflicts_with_an_enabled_auto_mode(agent: FlaskClient, mode: str) -> None:
    set_mode(agent, f"{mode}/enable")
    before = flags(agent)
    assert set_mode(agent, "manual-replica/enable") == (
        403,
        {
            "status": "error",
            "reason": "auto_mode_active",
            "message": "Cannot enable manual mode while auto mode is active",
        },
    )
    assert flags(agent) == before
    assert agent.get("/api/agents/a/sef-status").json["replica"] is None


@pytest.mark.parametrize("mode", AUTO)
def test_an_auto_mode_conflicts_with_enabled_manual_mode(agent: FlaskClient, mode: str) -> None:
    assert set_mode(agent, "manual-replica/enable")[0] == 200
    assert set_mode(agent, f"{mode}/enable") == (
        403,
        {
            "status": "error",
            "reason": "manual_mode_active",
            "message": f"Cannot enable {mode} while manual replica mode is active",
        },
    )
    assert flags(agent) == [False, False, True]
    assert set_mode(agent, f"{mode}/disable")[0] == 200
    assert set_mode(agent, "manual-replica/disable")[0] == 200
    assert set_mode(agent, f"{mode}/enable")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        *[
            f"{mode}/{action}"
            for mode in [*AUTO, "manual-replica"]
            for action in ("enable", "disable")
        ],
        "manual-switch",
    ],
)
def test_an_unknown_agent_is_not_found(agent: FlaskClient, path: str) -> None:
    answer = agent.post(f"/api/agents/nobody/{path}")
    assert (answer.status_code, answer.json["reason"]) == (404, "agent_not_found")


def test_a_switch_needs_manual_mode(agent: FlaskClient) -> None:
    assert set_mode(agent, "manual-switch") == (
        409,
        {
            "status": "error",
            "reason": "manual_mode_not_enabled",
            "message": "Manual replica mode is not enabled for this agent. Enable it first.",
        },
    )


@pytest.mark.parametrize("path", ["auto-everything/enable", "auto-switch", "auto-switch/toggle"])
def test_another_mode_or_action_is_not_found(agent: FlaskClient, path: str) -> None:
    status, answer = set_mode(agent, path)
    assert (status, answer["status"], answer["reason"]) == (404, "error", "not_found")
