"""GET /api/agents/<id>/sef-status."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.db.rows import add_ready_standby

T = 1637500000


def report(client: FlaskClient, **fields: Any) -> None:
    body = {"spot_price": 0.05, "pool_id": "p", "timestamp": T} | fields
    assert client.post("/api/agents/a/pricing", json=body).status_code == 200


def status(client: FlaskClient) -> Any:
    answer = client.get("/api/agents/a/sef-status")
    assert answer.status_code == 200, answer.json
    return answer.json


@pytest.mark.databases("sqlite", "mariadb")
def test_the_status_of_a_new_agent_has_every_field(client: FlaskClient) -> None:
    report(client, instance_id="i-1")
    answer = status(client)
    agent = answer["agent"]
    created, updated = agent.pop("created_at"), agent.pop("updated_at")
    assert datetime.fromisoformat(created) <= datetime.fromisoformat(updated) <= datetime.now(UTC)
    assert answer == {
        "status": "success",
        "agent": {
            "id": "a",
            "instance_id": "i-1",
            "pool_id": "p",
            "auto_switch_enabled": False,
            "auto_terminate_enabled": False,
            "manual_replica_enabled": False,
            "launch_template": None,
            "epoch": 1,
            "probation_until": None,
            "drill_interval": None,
            "next_drill_at": None,
            "cutover": None,
        },
        "mode": "emergency_only",
        "replica": None,
        "other_replicas": [],
        "former_primaries": [],
        "orphans": [],
        "no_standby": {"reason": "no mode or incident requires a standby", "next_try_at": None},
        "data_quality": {
            "window_seconds": 86400,
            "latest_timestamp": "2021-11-21T13:06:40Z",
            "points": 1,
            "normal": 1,
            "averaged_dual_source": 0,
            "divergent_dual_source": 0,
            "interpolated": 0,
            "buffered": 0,
        },
        "incident": None,
        "cutover": None,
        "targets": None,
    }


def test_an_agent_with_drills_shows_when_the_next_is_due(client: FlaskClient) -> None:
    client.put("/api/agents/a", json={"drill_interval": 3600})
    agent = status(client)["agent"]
    since = datetime.fromisoformat(agent["created_at"])
    assert datetime.fromisoformat(agent["next_drill_at"]) == since + timedelta(hours=1)


def test_an_agent_that_never_reported_has_no_data_quality(client: FlaskClient) -> None:
    assert client.put("/api/agents/a", json={}).status_code == 200
    quality = status(client)["data_quality"]
    assert (quality["latest_timestamp"], quality["points"], quality["buffered"]) == (None, 0, 0)


@pytest.mark.databases("sqlite", "mariadb")
def test_data_quality_counts_the_last_day_before_the_newest_point(client: FlaskClient) -> None:
    day = 86400
    report(client, timestamp=T - 60)
    report(client, timestamp=T)  # a day before the newest point: outside the window
    report(client, timestamp=T + 1)
    report(client, timestamp=T + 1201)
    report(client, timestamp=T + 2000, pool_id="q", spot_price=0.0456)
    report(client, timestamp=T + 2001, pool_id="q", spot_price=0.0458, is_replica=True)
    report(client, timestamp=T + 2100, pool_id="q", spot_price=0.05)
    report(client, timestamp=T + 2100, pool_id="q", spot_price=0.09, is_replica=True)
    report(client, timestamp=T + day, pool_id="q")
    quality = status(client)["data_quality"]
    assert quality == {
        "window_seconds": day,
        "latest_timestamp": "2021-11-22T13:06:40Z",
        "points": 8,
        "normal": 3,
        "averaged_dual_source": 1,
        "divergent_dual_source": 1,
        "interpolated": 3,
        "buffered": 0,
    }


@pytest.mark.databases("sqlite", "mariadb")
def test_buffered_reports_are_counted(client: FlaskClient, database_url: str) -> None:
    report(client)
    add_ready_standby(database_url, "a", datetime.now(UTC))
    report(client, timestamp=T + 300)
    report(client, timestamp=T + 600, pool_id="q", is_replica=True)
    quality = status(client)["data_quality"]
    assert (quality["points"], quality["buffered"]) == (1, 2)


def test_the_standby_is_shown(client: FlaskClient, database_url: str) -> None:
    report(client)
    ready_at = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    add_ready_standby(database_url, "a", ready_at)
    replica = status(client)["replica"]
    assert replica.keys() == {
        "id",
        "instance_id",
        "replica_type",
        "pool_id",
        "market",
        "status",
        "reason",
        "created_at",
        "ready_at",
    }
    assert (replica["replica_type"], replica["status"], replica["ready_at"]) == (
        "manual",
        "ready",
        "2024-05-06T07:08:09Z",
    )


@pytest.mark.parametrize(
    ("route", "mode"),
    [
        ("manual-replica", "manual"),
        ("auto-switch", "auto"),
        ("auto-terminate", "auto"),
    ],
)
def test_the_mode_is_shown(cloud_client: FlaskClient, route: str, mode: str) -> None:
    report(cloud_client)
    assert cloud_client.post(f"/api/agents/a/{route}/enable").status_code == 200
    assert status(cloud_client)["mode"] == mode
    assert cloud_client.post(f"/api/agents/a/{route}/disable").status_code == 200
    assert status(cloud_client)["mode"] == "emergency_only"


def test_the_open_incident_is_shown(cloud_client: FlaskClient) -> None:
    report(cloud_client, instance_id="i-1", pool_id="m5.large.us-east-1a")
    body = {"signal_type": "rebalance-recommendation", "timestamp": T}
    answer = cloud_client.post("/api/agents/a/interruption", json=body).json
    incident = status(cloud_client)["incident"]
    assert incident.keys() == {
        "id",
        "kind",
        "instance_id",
        "pool_id",
        "status",
        "goal",
        "reason",
        "obstacle",
        "risk_score",
        "opened_at",
        "deadline",
    }
    assert (incident["id"], incident["risk_score"]) == (
        answer["incident_id"],
        answer["risk_score"],
    )
    assert (incident["status"], incident["goal"], incident["deadline"]) == ("open", "standby", None)


def test_an_unknown_agent_is_not_found(client: FlaskClient) -> None:
    answer = client.get("/api/agents/nobody/sef-status")
    assert (answer.status_code, answer.json) == (
        404,
        {
            "status": "error",
            "reason": "agent_not_found",
            "message": "There is no agent nobody. PUT /api/agents/<id> registers an agent.",
        },
    )
