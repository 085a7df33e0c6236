"""The four steps of the integration guide in a row, and conflicts between modes."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError

from sef.db.tables import agents, replica_instances
from sef.simulator.client import Simulation
from sef.simulator.process import ensure_running
from tests.db.rows import stored_points, transaction
from tests.waiting import LIMIT
from tests.web.server import Server

T = 1637500000
REBALANCE = {
    "signal_type": "rebalance-recommendation",
    "timestamp": T,
    "termination_time": None,
}


@pytest.fixture(scope="module")
def guide_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a simulated EC2 with its defaults: an instance is pending for a second."""
    folder = tmp_path_factory.mktemp("guide")
    simulation = ensure_running(folder)
    yield folder
    simulation.stop()


@pytest.fixture
def guide(make_app: Callable[..., Flask], guide_folder: Path) -> FlaskClient:
    return make_app(
        var=guide_folder, simulator_pending_seconds=1.0, enable_wait_seconds=LIMIT
    ).test_client()


def report(client: FlaskClient, agent_id: str, **fields: Any) -> Any:
    body = {"pool_id": "pool-123", "timestamp": T} | fields
    answer = client.post(f"/api/agents/{agent_id}/pricing", json=body)
    assert answer.status_code == 200, answer.json
    return answer.json


def post(client: FlaskClient, path: str, body: Any = None) -> Any:
    answer = client.post(f"/api/agents/{path}", json=body)
    assert answer.status_code == 200, answer.json
    return answer.json


def status(client: FlaskClient, agent_id: str) -> Any:
    answer = client.get(f"/api/agents/{agent_id}/sef-status")
    assert answer.status_code == 200, answer.json
    return answer.json


def replicas(url: str, agent_id: str) -> list[Any]:
    columns = replica_instances.c
    with transaction(url) as connection:
        found = select(replica_instances).where(columns.agent_id == agent_id)
        return list(connection.execute(found.order_by(columns.created_at)))


@pytest.mark.databases("sqlite", "mariadb")
def test_the_four_steps_in_immediate_succession(
    guide: FlaskClient, database_url: str, guide_folder: Path
) -> None:
    # 1. Two agents report the same price: one row, the mean.
    assert report(guide, "agent-1", spot_price=0.0456, is_replica=False)["status"] == "success"
    assert report(guide, "agent-1", spot_price=0.0458, is_replica=True) == {
        "status": "success",
        "data_quality": "averaged_dual_source",
        "interpolated": 0,
    }
    assert [
        (int(point.at.timestamp()), float(point.price), str(point.flag))
        for point in stored_points(database_url, "agent-1", "pool-123")
    ] == [(T, 0.0457, "averaged_dual_source")]

    # 2. Twenty minutes without a price: filled on the straight line.
    report(guide, "agent-1", spot_price=0.05)
    assert report(guide, "agent-1", spot_price=0.06, timestamp=T + 1200)["interpolated"] == 3
    assert [
        (int(point.at.timestamp()) - T, float(point.price))
        for point in stored_points(database_url, "agent-1", "pool-123")
        if point.flag == "interpolated"
    ] == [(300, 0.0525), (600, 0.055), (900, 0.0575)]

    # 3. An operator enables manual mode and switches to the standby.
    assert post(guide, "agent-1/manual-replica/enable")["replica"]["status"] == "ready"
    before = status(guide, "agent-1")
    assert (before["mode"], before["replica"]["status"]) == ("manual", "ready")
    switched = post(guide, "agent-1/manual-switch")
    after = status(guide, "agent-1")
    assert after["agent"]["instance_id"] == switched["new_instance_id"]
    assert after["agent"]["instance_id"] == before["replica"]["instance_id"]
    assert after["agent"]["pool_id"] == before["replica"]["pool_id"]
    assert after["agent"]["instance_id"] != before["agent"]["instance_id"]
    assert after["replica"]["id"] != before["replica"]["id"]
    assert after["replica"]["status"] in ("launching", "ready")

    # 4. AWS recommends a rebalance: the standby is used.
    answer = post(guide, "agent-1/interruption", REBALANCE)
    assert answer["replica_id"] == after["replica"]["id"]
    first, second = replicas(database_url, "agent-1")
    assert (first.status, second.id) == ("promoted", answer["replica_id"])

    launched = {row.instance_id for row in replicas(database_url, "agent-1")}
    running = {i.id for i in ensure_running(guide_folder).instances() if i.state != "terminated"}
    assert launched <= running


def test_a_recommendation_for_a_new_agent_launches_a_replica_because_of_the_prior(
    guide: FlaskClient, guide_folder: Path, database_url: str
) -> None:
    ensure_running(guide_folder, pending_seconds=600)  # the application of the next test resets it
    report(guide, "fresh", spot_price=0.05)
    answer = post(guide, "fresh/interruption", REBALANCE)
    assert (answer["action"], answer["risk_score"]) == ("replica_launching", 0.5)
    assert "no history in this pool, prior 0.50" in answer["message"]
    (replica,) = replicas(database_url, "fresh")
    assert (replica.id, replica.replica_type, replica.status) == (
        answer["replica_id"],
        "automatic-rebalance",
        "launching",
    )
    assert replica.instance_id is not None


@pytest.mark.parametrize(
    ("first", "second", "reason", "message"),
    [
        pytest.param(
            "auto-switch",
            "manual-replica",
            "auto_mode_active",
            "Cannot enable manual mode while auto mode is active",
            id="manual while auto",
        ),
        pytest.param(
            "manual-replica",
            "auto-switch",
            "manual_mode_active",
            "Cannot enable auto-switch while manual replica mode is active",
            id="auto while manual",
        ),
    ],
)
def test_manual_and_auto_exclude_each_other(
    cloud_client: FlaskClient, first: str, second: str, reason: str, message: str
) -> None:
    report(cloud_client, "a", spot_price=0.05)
    post(cloud_client, f"a/{first}/enable")
    answer = cloud_client.post(f"/api/agents/a/{second}/enable")
    assert (answer.status_code, answer.json) == (
        403,
        {"status": "error", "reason": reason, "message": message},
    )


@pytest.mark.parametrize("auto", ["auto_switch_enabled", "auto_terminate_enabled"])
@pytest.mark.databases("sqlite", "mariadb")
def test_the_database_rejects_both_modes(client: FlaskClient, database_url: str, auto: str) -> None:
    report(client, "a", spot_price=0.05)
    both = update(agents).values(**{"manual_replica_enabled": True, auto: True})
    with pytest.raises(DBAPIError), transaction(database_url) as connection:
        connection.execute(both)
    with transaction(database_url) as connection:
        connection.execute(update(agents).values(manual_replica_enabled=True))
    with pytest.raises(DBAPIError), transaction(database_url) as connection:
        connection.execute(update(agents).values(**{auto: True}))


@pytest.fixture(scope="module")
def cloud_server(
    module_database: str, simulated_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A real server with the simulated EC2."""
    server = Server(
        tmp_path_factory.mktemp("server"),
        module_database,
        SEF_VAR=str(simulated_folder),
        SEF_SIMULATOR_PENDING_SECONDS="0",
    )
    yield server
    server.stop()


@pytest.mark.databases("sqlite", "mariadb")
def test_one_mode_wins_when_200_requests_enable_both_at_once(
    cloud_server: Server, module_database: str, simulation: Simulation
) -> None:
    ids = [f"agent-{number}" for number in range(10)]
    for agent_id in ids:
        answer = requests.put(f"{cloud_server.url}/api/agents/{agent_id}", json={}, timeout=LIMIT)
        assert answer.ok, answer.text

    def enable(call: tuple[str, str]) -> tuple[str, str, int]:
        agent_id, mode = call
        url = f"{cloud_server.url}/api/agents/{agent_id}/{mode}/enable"
        return agent_id, mode, requests.post(url, timeout=LIMIT).status_code

    calls = [
        (agent_id, mode)
        for _ in range(10)
        for agent_id in ids
        for mode in ("manual-replica", "auto-switch")
    ]
    answers: defaultdict[str, defaultdict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    with ThreadPoolExecutor(20) as threads:
        for agent_id, mode, code in threads.map(enable, calls):
            answers[agent_id][mode].add(code)

    with transaction(module_database) as connection:
        rows = connection.execute(select(agents).where(agents.c.id.in_(ids))).all()
        live = connection.scalars(
            select(replica_instances.c.live_agent_id).where(
                replica_instances.c.live_agent_id.is_not(None)
            )
        ).all()
    for row in rows:
        assert row.manual_replica_enabled != row.auto_switch_enabled
        manual, auto = answers[row.id]["manual-replica"], answers[row.id]["auto-switch"]
        assert (manual, auto) == (({200}, {403}) if row.manual_replica_enabled else ({403}, {200}))
    assert sorted(live) == sorted(row.id for row in rows if row.manual_replica_enabled)
