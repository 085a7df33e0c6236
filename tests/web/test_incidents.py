"""GET /api/incidents/<id> and GET /api/agents/<id>/incidents."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from flask.testing import FlaskClient

from sef.simulator.client import Simulation

POOL = "m5.large.us-east-1a"
REBALANCE = "rebalance-recommendation"
TERMINATION = "termination-notice"
KINDS = {"signal", "decision", "call", "step", "outcome"}


@pytest.fixture
def agent(cloud_client: FlaskClient, simulation: Simulation) -> FlaskClient:
    """An agent whose primary runs in the simulated EC2, after a switch from a registered one."""
    cloud_client.put("/api/agents/a", json={"pool_id": POOL})
    cloud_client.post("/api/agents/a/manual-replica/enable")
    assert cloud_client.post("/api/agents/a/manual-switch").status_code == 200
    cloud_client.post("/api/agents/a/manual-replica/disable")
    return cloud_client


def primary(client: FlaskClient, agent_id: str = "a") -> str:
    return str(client.get(f"/api/agents/{agent_id}/sef-status").json["agent"]["instance_id"])


def signal(
    client: FlaskClient, kind: str, at: datetime, agent_id: str = "a", **more: Any
) -> dict[str, Any]:
    answer = client.post(
        f"/api/agents/{agent_id}/interruption",
        json={"signal_type": kind, "timestamp": at.isoformat(), **more},
    )
    assert answer.status_code == 200
    return dict(answer.json)


def story(client: FlaskClient, incident_id: str) -> dict[str, Any]:
    answer = client.get(f"/api/incidents/{incident_id}")
    assert (answer.status_code, answer.json["status"]) == (200, "success")
    timeline = answer.json["timeline"]
    assert {entry["kind"] for entry in timeline} <= KINDS
    assert all(a["at"] <= b["at"] for a, b in pairwise(timeline)), "in chronological order"
    assert all(entry["sentence"] for entry in timeline)
    return dict(answer.json)


def kinds_and_types(timeline: list[Any]) -> list[tuple[str, str]]:
    return [(entry["kind"], entry["type"]) for entry in timeline]


@pytest.mark.databases("sqlite", "mariadb")
def test_a_story_runs_from_recommendation_to_promotion(agent: FlaskClient) -> None:
    old, at = primary(agent), datetime.now(UTC)
    first = signal(agent, REBALANCE, at, instance_id=old)
    for _ in range(2):
        signal(agent, TERMINATION, at + timedelta(seconds=1), instance_id=old)
    new = primary(agent)

    found = story(agent, first["incident_id"])

    assert kinds_and_types(found["timeline"]) == [
        ("signal", REBALANCE),
        ("decision", "rebalance_recommendation"),
        ("step", "replica_launching"),
        ("decision", "launch_decided"),
        ("call", "RunInstances"),
        ("step", "replica_ready"),
        ("signal", TERMINATION),
        ("decision", "termination_notice"),
        ("step", "replica_promoted"),
        ("outcome", "failover_completed"),
    ]
    entries = {entry["type"]: entry for entry in found["timeline"]}
    assert 0 <= entries[REBALANCE]["latency_ms"] < 60_000
    assert entries[TERMINATION]["latency_ms"] is None, "announced by a clock ahead of ours"
    decision = entries["rebalance_recommendation"]["details"]
    assert (decision["goal_before"], decision["goal"]) == ("monitor", "standby")
    assert (decision["threshold"], decision["mode"]) == (0.3, "emergency_only")
    assert decision["risk"]["score"] == first["risk_score"]
    assert decision["risk"]["reasons"]
    assert entries["termination_notice"]["details"]["goal"] == "switch"
    assert entries[TERMINATION]["details"]["times_received"] == 2
    assert "received 2 times" in entries[TERMINATION]["sentence"]
    assert entries["launch_decided"]["details"]["candidates"]
    run = entries["RunInstances"]
    assert run["details"]["instance_id"] == new
    assert run["details"]["token"] == entries["launch_decided"]["details"]["token"]
    assert run["latency_ms"] >= 0
    assert entries["replica_ready"]["latency_ms"] >= run["latency_ms"]
    outcome = entries["failover_completed"]
    assert outcome["details"]["new_instance_id"] == new
    assert outcome["latency_ms"] == outcome["details"]["failover_time_ms"]
    assert 100 < outcome["details"]["seconds_left"] <= 120
    assert outcome["details"]["unseen"] is None

    incident = found["incident"]
    assert (incident["kind"], incident["status"], incident["goal"]) == (
        "interruption",
        "done",
        "switch",
    )
    assert (incident["instance_id"], incident["new_instance_id"]) == (old, new)
    left = found["budget"]["seconds_left"]
    assert 100 < left <= 120
    assert found["budget"]["promoted_at"] == incident["closed_at"]
    assert incident["summary"] == (
        f"{new} in {incident['new_pool_id']} replaced {old} in "
        f"{incident['failover_time_ms'] / 1000:.3f} s, {left:.1f} s before the deadline"
    )


def test_the_promotion_of_an_existing_standby_shows_when_it_became_ready(
    agent: FlaskClient,
) -> None:
    standby = agent.post("/api/agents/a/manual-replica/enable").json["replica"]
    answer = signal(agent, TERMINATION, datetime.now(UTC), instance_id=primary(agent))
    timeline = story(agent, answer["incident_id"])["timeline"]
    steps = [entry for entry in timeline if entry["kind"] == "step"]
    assert [entry["type"] for entry in steps] == ["replica_ready", "replica_promoted"]
    assert steps[0]["at"] == standby["ready_at"]
    assert steps[0]["details"] == {"replica_id": standby["id"], "replica_type": "manual"}


def test_a_call_that_terminates_an_instance_is_listed_with_its_latency(agent: FlaskClient) -> None:
    agent.post("/api/agents/a/auto-switch/enable")
    answer = signal(agent, REBALANCE, datetime.now(UTC))
    assert answer["action"] == "promoted"
    other = signal(agent, REBALANCE, datetime.now(UTC), instance_id=answer["new_instance_id"])
    timeline = story(agent, other["incident_id"])["timeline"]
    assert [e["type"] for e in timeline if e["kind"] == "call"] == ["RunInstances"]

    agent.post("/api/agents/a/auto-switch/disable")
    third = signal(agent, REBALANCE, datetime.now(UTC), instance_id=other["new_instance_id"])
    assert third["action"] == "standby_ready"
    # A notice for the standby itself releases it.
    standby = agent.get("/api/agents/a/sef-status").json["replica"]["instance_id"]
    signal(agent, TERMINATION, datetime.now(UTC), instance_id=standby)
    timeline = story(agent, third["incident_id"])["timeline"]
    [call] = [e for e in timeline if e["type"] == "TerminateInstances"]
    assert call["sentence"] == f"TerminateInstances of {standby}"
    assert call["latency_ms"] == call["details"]["ms"] >= 0


def test_a_refused_launch_is_listed_once_with_the_error_of_ec2(
    agent: FlaskClient, simulation: Simulation
) -> None:
    simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity", count=1)
    try:
        answer = signal(agent, TERMINATION, datetime.now(UTC), instance_id=primary(agent))
    finally:
        simulation.clear_faults()
    timeline = story(agent, answer["incident_id"])["timeline"]
    calls = [entry for entry in timeline if entry["kind"] == "call"]
    assert [call["type"] for call in calls] == ["launch_refused", "RunInstances"]
    assert calls[0]["details"]["code"] == "InsufficientInstanceCapacity"
    assert calls[0]["details"]["ms"] >= 0
    assert calls[1]["details"]["instance_id"] == primary(agent)


def test_an_open_incident_shows_the_replacement_in_progress(
    agent: FlaskClient, simulation: Simulation
) -> None:
    simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    try:
        answer = signal(agent, TERMINATION, datetime.now(UTC), instance_id=primary(agent))
    finally:
        simulation.clear_faults()
    found = story(agent, answer["incident_id"])
    assert found["incident"]["status"] == "open"
    assert found["incident"]["summary"].startswith(f"{primary(agent)} is being replaced: ")
    assert found["budget"]["promoted_at"] is None
    assert 0 < found["budget"]["seconds_left"] <= 120


def test_an_ignored_signal_is_an_incident_with_the_reason(agent: FlaskClient) -> None:
    answer = signal(agent, TERMINATION, datetime.now(UTC), instance_id="i-0other")
    found = story(agent, answer["incident_id"])
    assert found["incident"]["status"] == "ignored"
    assert found["incident"]["summary"] == (
        "nothing was done about i-0other: i-0other is not the primary of a"
    )
    assert kinds_and_types(found["timeline"]) == [
        ("signal", TERMINATION),
        ("decision", "signal_ignored"),
    ]


def test_an_unknown_incident_is_not_found(agent: FlaskClient) -> None:
    answer = agent.get("/api/incidents/incident-of-nobody")
    assert (answer.status_code, answer.json["reason"]) == (404, "incident_not_found")


# The list


@pytest.mark.databases("sqlite", "mariadb")
def test_the_incidents_of_an_agent_come_newest_first_in_pages(agent: FlaskClient) -> None:
    made = []
    for number in range(5):
        answer = signal(agent, TERMINATION, datetime.now(UTC), instance_id=f"i-{number}")
        made.append(answer["incident_id"])
    agent.put("/api/agents/a/b", json={})
    signal(agent, TERMINATION, datetime.now(UTC), "a/b", instance_id="i-5")

    pages, before = [], ""
    while before is not None:
        query = f"&before={before}" if before else ""
        answer = agent.get(f"/api/agents/a/incidents?limit=2{query}")
        assert answer.status_code == 200
        pages.append([entry["id"] for entry in answer.json["incidents"]])
        before = answer.json["next_before"]

    assert [len(page) for page in pages] == [2, 2, 1]
    assert [name for page in pages for name in page] == made[::-1]
    [entry] = agent.get("/api/agents/a/b/incidents").json["incidents"]
    assert entry == story(agent, entry["id"])["incident"]
    assert entry["agent_id"] == "a/b"


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("a/incidents?before=incident-1", 400, "invalid_before"),
        ("a/incidents?limit=0", 400, "invalid_limit"),
        ("nobody/incidents", 404, "agent_not_found"),
    ],
)
def test_an_invalid_query_or_unknown_agent_is_rejected(
    client: FlaskClient, path: str, status: int, reason: str
) -> None:
    client.put("/api/agents/a", json={})
    answer = client.get(f"/api/agents/{path}")
    assert (answer.status_code, answer.json["reason"]) == (status, reason)


def test_the_incident_of_another_agent_is_rejected_as_a_cursor(agent: FlaskClient) -> None:
    agent.put("/api/agents/b", json={})
    other = signal(agent, TERMINATION, datetime.now(UTC), "b", instance_id="i-1")["incident_id"]
    answer = agent.get(f"/api/agents/a/incidents?before={other}")
    assert (answer.status_code, answer.json["reason"]) == (400, "invalid_before")
