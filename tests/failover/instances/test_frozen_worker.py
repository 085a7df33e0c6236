"""A worker is frozen in the middle of a failover and goes on when others have finished it.

Real processes: two backends on one database, one of which is stopped by SIGSTOP, for longer than
its lease lasts, and continued by SIGCONT.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from sef.config import Settings
from tests.harness import ONCE, TERMINATION, World
from tests.web.server import Server

SECONDS = 30


@pytest.fixture
def workers(
    world: World, sef_settings: Settings, tmp_path: Path
) -> Iterator[tuple[Server, Server]]:
    def start(name: str) -> Server:
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
            SEF_JOBS="true",
            SEF_RECONCILE_INTERVAL="0.3",
        )

    one, other = start("one"), start("other")
    yield one, other
    for server in (one, other):
        server.thaw()
        server.stop()


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def failover(world: World, late: Server, quick: Server, agent_id: str, fault: Any) -> None:
    """Freeze the one that was told, until the other is done."""
    primary = world.launch()
    url = f"/api/agents/{agent_id}"
    told = {"instance_id": primary, "pool_id": "m5.large.us-east-1a"}
    assert requests.put(quick.url + url, json=told, timeout=10).ok
    world.simulation.clear_faults()  # one of the story before may be left
    world.simulation.add_fault(count=2, delay_seconds=2, **fault)
    notice = {"signal_type": TERMINATION, "timestamp": time.time(), "instance_id": primary}
    quick.freeze()  # or its job might be at EC2 first
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(
            requests.post, f"{late.url}{url}/interruption", json=notice, timeout=60
        )
        # The request is at EC2, and maybe a job of the same worker too.
        until(lambda: [rule["count"] for rule in world.simulation.faults()] != [2])
        late.freeze()
        quick.thaw()
        try:
            assert not world.promotions(agent_id)
            until(lambda: world.promotions(agent_id))
        finally:
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
    one, other = workers
    # EC2 has not been told yet; it has launched, and the answer is on its way; it is being asked.
    faults = [
        {"action": "RunInstances"},
        {"action": "RunInstances", "lose_reply": True},
        {"action": "DescribeInstances"},
    ]
    # Whoever goes on takes the lease of the job: so it is the holder that is frozen next.
    for number, fault in enumerate(faults):
        late, quick = (one, other) if number % 2 else (other, one)
        failover(world, late, quick, f"agent-{number}", fault)
