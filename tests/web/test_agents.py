"""GET /api/agents and PUT /api/agents/<id>."""

from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.db.rows import add_ready_standby, events, row_counts

IDS = ["B", "a", "a/1", "a1", "a:2", "b", "web-1", "web-10", "web-2"]
"""In byte order, which is the order of the fleet."""


def put(client: FlaskClient, agent_id: str, **fields: Any) -> Any:
    answer = client.put(f"/api/agents/{agent_id}", json=fields)
    assert answer.status_code == 200, answer.json
    return answer.json


def listed(client: FlaskClient, query: str = "") -> Any:
    answer = client.get(f"/api/agents{query}")
    assert answer.status_code == 200, answer.json
    return answer.json


def ids(page: Any) -> list[str]:
    return [agent["id"] for agent in page["agents"]]


def test_an_empty_fleet_is_an_empty_page(client: FlaskClient) -> None:
    assert listed(client) == {"status": "success", "agents": [], "next_after": None}


@pytest.mark.databases("sqlite", "mariadb")
def test_the_fleet_is_listed_in_byte_order_of_the_ids(client: FlaskClient) -> None:
    for agent_id in reversed(IDS):
        put(client, agent_id)
    assert ids(listed(client)) == IDS
    assert listed(client)["next_after"] is None


@pytest.mark.parametrize("limit", [1, 2, 4, 9, 10])
def test_pages_join_to_the_whole_fleet(client: FlaskClient, limit: int) -> None:
    for agent_id in IDS:
        put(client, agent_id)
    joined: list[str] = []
    page = listed(client, f"?limit={limit}")
    while page["next_after"] is not None:
        assert len(page["agents"]) == limit
        assert page["next_after"] == ids(page)[-1]
        joined += ids(page)
        page = listed(client, f"?limit={limit}&after={page['next_after']}")
    assert joined + ids(page) == IDS


@pytest.mark.databases("sqlite", "mariadb")
def test_an_agent_is_shown_with_its_mode_standby_and_last_report(
    client: FlaskClient, database_url: str
) -> None:
    put(client, "a", instance_id="i-1", pool_id="m5.large.us-east-1a")
    (quiet,) = listed(client)["agents"]
    assert quiet.keys() == {
        "id",
        "instance_id",
        "pool_id",
        "auto_switch_enabled",
        "auto_terminate_enabled",
        "manual_replica_enabled",
        "launch_template",
        "epoch",
        "probation_until",
        "drill_interval",
        "next_drill_at",
        "cutover",
        "created_at",
        "updated_at",
        "mode",
        "replica_id",
        "replica_status",
        "incident_id",
        "cutover_status",
        "reported_at",
        "orphans",
    }
    assert (quiet["mode"], quiet["replica_status"], quiet["incident_id"], quiet["reported_at"]) == (
        "emergency_only",
        None,
        None,
        None,
    )

    before = datetime.now(UTC)
    for pool in ("p", "q"):
        body = {"spot_price": 0.05, "pool_id": pool, "timestamp": 1637500000}
        assert client.post("/api/agents/a/pricing", json=body).status_code == 200
    add_ready_standby(database_url, "a", before)
    (busy,) = listed(client)["agents"]
    assert busy["replica_status"] == "ready"
    assert before <= datetime.fromisoformat(busy["reported_at"]) <= datetime.now(UTC)


@pytest.mark.databases("sqlite", "mariadb")
def test_an_agent_is_registered_and_then_changed(client: FlaskClient, database_url: str) -> None:
    fields = {"instance_id": "i-1", "pool_id": "m5.large.us-east-1a", "launch_template": "lt-1"}
    answer = put(client, "a", **fields)
    assert (answer["status"], answer["message"]) == ("success", "registered")
    assert answer["agent"].items() >= (fields | {"id": "a", "epoch": 1}).items()

    answer = put(client, "a", launch_template=None)
    assert answer["message"] == "changed"
    assert answer["agent"].items() >= (fields | {"launch_template": None, "epoch": 1}).items()
    for kind in ("registered", "changed"):
        assert len(events(database_url, "a", f"agent_{kind}")) == 1


def test_an_agent_can_be_registered_by_its_id_alone(client: FlaskClient) -> None:
    agent = put(client, "team/web-1")["agent"]
    assert (agent["instance_id"], agent["pool_id"], agent["launch_template"]) == (None, None, None)


def test_a_new_instance_starts_a_new_epoch(client: FlaskClient) -> None:
    epochs = [
        put(client, "a", instance_id=instance)["agent"]["epoch"]
        for instance in ("i-1", "i-1", "i-2", "i-1", None)
    ]
    assert epochs == [1, 1, 2, 3, 4]


def test_a_registered_instance_is_not_replaced_by_a_report(client: FlaskClient) -> None:
    put(client, "a", instance_id="i-1")
    body = {"spot_price": 0.05, "pool_id": "p", "timestamp": 1637500000, "instance_id": "i-2"}
    assert client.post("/api/agents/a/pricing", json=body).status_code == 200
    (agent,) = listed(client)["agents"]
    # The pool of another instance is not taken for that of the primary.
    assert (agent["instance_id"], agent["pool_id"]) == ("i-1", None)


@pytest.mark.parametrize(
    ("agent_id", "fields", "reason"),
    [
        pytest.param("a", {"instance": "i-1"}, "unknown_field", id="an unknown field"),
        pytest.param("a", {"id": "b"}, "unknown_field", id="another id"),
        pytest.param("a", {"epoch": 7}, "unknown_field", id="an epoch"),
        pytest.param(
            "a", {"manual_replica_enabled": True}, "unknown_field", id="a mode, bypassing its check"
        ),
        pytest.param("a", {"instance_id": ""}, "invalid_instance_id", id="an empty instance"),
        pytest.param("a", {"instance_id": "i" * 65}, "invalid_instance_id", id="a long instance"),
        pytest.param("a", {"pool_id": "p" * 129}, "invalid_pool_id", id="a long pool"),
        pytest.param("a", {"pool_id": 5}, "invalid_pool_id", id="a pool as a number"),
        pytest.param(
            "a", {"launch_template": "lt " * 2}, "invalid_launch_template", id="a blank in a name"
        ),
        pytest.param("a" * 65, {}, "invalid_agent_id", id="a long id"),
        pytest.param("a%20b", {}, "invalid_agent_id", id="a blank in the id"),
        pytest.param("%C3%A4", {}, "invalid_agent_id", id="an umlaut"),
    ],
)
def test_invalid_fields_and_ids_are_rejected(
    module_client: FlaskClient,
    module_database: str,
    agent_id: str,
    fields: dict[str, Any],
    reason: str,
) -> None:
    before = row_counts(module_database)
    answer = module_client.put(f"/api/agents/{agent_id}", json=fields)
    assert (answer.status_code, answer.json["reason"]) == (400, reason)
    assert row_counts(module_database) == before


@pytest.mark.databases("sqlite", "mariadb")
def test_cutover_targets_are_kept_until_they_are_cleared(client: FlaskClient) -> None:
    put(client, "a", cutover={"dns": {"zone_id": "Z1", "name": "Web.Example.com"}})
    dns = {"zone_id": "Z1", "name": "web.example.com", "type": "A", "address": "private"}
    assert put(client, "a", pool_id="p")["agent"]["cutover"] == {"dns": dns}
    (agent,) = listed(client)["agents"]
    assert agent["cutover"] == {"dns": dns}
    assert put(client, "a", cutover=None)["agent"]["cutover"] is None


def test_invalid_cutover_targets_are_rejected(
    module_client: FlaskClient, module_database: str
) -> None:
    before = row_counts(module_database)
    answer = module_client.put("/api/agents/a", json={"cutover": {"private_ip": "10.0.0"}})
    assert (answer.status_code, answer.json["reason"]) == (400, "invalid_cutover")
    assert answer.json["message"].startswith("cutover.private_ip must be an IPv4 address")
    assert row_counts(module_database) == before


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_route_below_an_agent_is_not_registered_as_an_agent(
    module_client: FlaskClient, module_database: str, method: str
) -> None:
    before = row_counts(module_database)
    answer = module_client.open("/api/agents/a/sef-status", method=method, json={})
    assert (answer.status_code, answer.json["reason"]) == (405, "method_not_allowed")
    assert row_counts(module_database) == before


@pytest.mark.parametrize("limit", ["0", "10001", "x", "-1"])
def test_a_limit_out_of_range_is_rejected(module_client: FlaskClient, limit: str) -> None:
    answer = module_client.get(f"/api/agents?limit={limit}")
    assert (answer.status_code, answer.json["reason"]) == (400, "invalid_limit")


@pytest.mark.parametrize("after", ["%00", "%FF", "zzz", "%F0%9F%98%80", "a" * 3000])
@pytest.mark.databases("sqlite", "mariadb")
def test_a_page_may_start_after_an_unknown_id(module_client: FlaskClient, after: str) -> None:
    assert listed(module_client, f"?after={after}")["next_after"] is None
