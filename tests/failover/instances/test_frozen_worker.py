"""A worker frozen during a failover changes nothing when it continues after the failover.

The test runs two real backends on one database. It stops the late backend with SIGSTOP, for longer
than its lease lasts, and continues it with SIGCONT.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from sef.clock import utc_now
from sef.config import Settings
from sef.db import tables
from sef.db.statements import upsert
from sef.jobs import LEASE, RECONCILE
from tests.harness import ON_MARIADB, TERMINATION, World
from tests.waiting import LIMIT, until
from tests.web.server import Server


@pytest.fixture
def workers(
    world: World, sef_settings: Settings, tmp_path: Path
) -> Iterator[tuple[Server, Server]]:
    def start(name: str, jobs: str) -> Server:
        folder = tmp_path / name
        folder.mkdir()
        return Server(
            folder,
            sef_settings.database_url,
            SEF_CLOUD="aws",
            SEF_EC2_ENDPOINT=world.simulation.endpoint,
            AWS_ACCESS_KEY_ID="simulated",
            AWS_SECRET_ACCESS_KEY="simulated",
            SEF_LAUNCH_TEMPLATE="sef-default",
            SEF_RUN_JOBS=jobs,
            SEF_RECONCILE_INTERVAL_SECONDS="0.3",
        )

    # With periodic jobs, the late worker could call EC2 before its request does. The request would
    # then be answered at once with a launching replica.
    late, quick = start("late", jobs="false"), start("quick", jobs="true")
    yield late, quick
    for server in (late, quick):
        server.thaw()
        server.stop()


def hold_lease(world: World) -> None:
    """Give the late worker the lease of the job, as if it were frozen during a pass."""
    row = {"name": RECONCILE, "holder": "late", "expires_at": utc_now() + LEASE, "version": 1}
    with world.connect() as connection, connection.begin():
        upsert(connection, tables.leases, [row])


def failover(world: World, late: Server, quick: Server, agent_id: str, fault: Any) -> None:
    """Freeze the late worker in its request until the quick worker has promoted."""
    primary = world.launch()
    url = f"/api/agents/{agent_id}"
    registration = {"instance_id": primary, "pool_id": "m5.large.us-east-1a"}
    assert requests.put(quick.url + url, json=registration, timeout=LIMIT).ok
    # Long enough to freeze the late worker on a busy host, and shorter than SEF's timeout for EC2.
    world.simulation.add_fault(count=1, delay_seconds=6, **fault)
    notice = {"signal_type": TERMINATION, "timestamp": time.time(), "instance_id": primary}
    quick.freeze()  # its job might call EC2 first
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(
            requests.post, f"{late.url}{url}/interruption", json=notice, timeout=2 * LIMIT
        )
        try:
            until(lambda: world.simulation.faults() == [])  # EC2 has received the request
            late.freeze()
            assert not answer.done()
            assert not world.promotions(agent_id)
            hold_lease(world)
            quick.thaw()
            until(lambda: world.promotions(agent_id))
        finally:
            quick.thaw()
            late.thaw()
        assert answer.result().status_code == 200
    assert answer.result().json()["action"] == "promoted"
    assert answer.result().json()["new_instance_id"] == world.agent(agent_id).instance_id
    assert len(world.promotions(agent_id)) == 1
    assert len(world.tagged(agent_id)) == 1
    assert world.agent(agent_id).epoch == 2
    world.check(agent_id)


@ON_MARIADB
def test_a_late_worker_does_not_promote_again(world: World, workers: tuple[Server, Server]) -> None:
    late, quick = workers
    # Frozen before EC2 launches, after EC2 has launched but before its answer, and before EC2
    # returns a description.
    faults = [
        {"action": "RunInstances"},
        {"action": "RunInstances", "lose_reply": True},
        {"action": "DescribeInstances"},
    ]
    for number, fault in enumerate(faults):
        failover(world, late, quick, f"agent-{number}", fault)
