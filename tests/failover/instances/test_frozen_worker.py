"""A worker is frozen in the middle of a failover and goes on when others have finished it.

Real processes: two backends on one database, one of which is stopped by SIGSTOP, for longer than
its lease lasts, and continued by SIGCONT.
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
from tests.harness import ONCE, TERMINATION, World
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

    # With a job of its own, the late worker could call EC2 before its request does: the request
    # would be answered at once, that a replica is launching.
    late, quick = start("late", jobs="false"), start("quick", jobs="true")
    yield late, quick
    for server in (late, quick):
        server.thaw()
        server.stop()


def hold_lease(world: World) -> None:
    """Let the late worker hold the lease of the job, as it does when it is frozen in a pass."""
    row = {"name": RECONCILE, "holder": "late", "expires_at": utc_now() + LEASE, "version": 1}
    with world.connect() as connection, connection.begin():
        upsert(connection, tables.leases, [row])


def failover(world: World, late: Server, quick: Server, agent_id: str, fault: Any) -> None:
    """Freeze the late worker in its request, until the quick one has promoted."""
    primary = world.launch()
    url = f"/api/agents/{agent_id}"
    told = {"instance_id": primary, "pool_id": "m5.large.us-east-1a"}
    assert requests.put(quick.url + url, json=told, timeout=LIMIT).ok
    # Long enough to freeze the late worker on a busy machine, and less than SEF waits for EC2.
    world.simulation.add_fault(count=1, delay_seconds=6, **fault)
    notice = {"signal_type": TERMINATION, "timestamp": time.time(), "instance_id": primary}
    quick.freeze()  # or its job might be at EC2 first
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(
            requests.post, f"{late.url}{url}/interruption", json=notice, timeout=2 * LIMIT
        )
        try:
            until(lambda: world.simulation.faults() == [])  # the request is at EC2
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


@ONCE
def test_the_late_one_loses(world: World, workers: tuple[Server, Server]) -> None:
    late, quick = workers
    # EC2 has not been told yet; it has launched, and the answer is on its way; it is being asked.
    faults = [
        {"action": "RunInstances"},
        {"action": "RunInstances", "lose_reply": True},
        {"action": "DescribeInstances"},
    ]
    for number, fault in enumerate(faults):
        failover(world, late, quick, f"agent-{number}", fault)
