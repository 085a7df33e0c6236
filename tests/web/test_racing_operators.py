"""Two requests that enable manual mode at the same time share one standby."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask

from sef.agents import read_agent
from sef.failover.instances import launch
from sef.failover.standbys.rows import Replica, live_standby
from sef.terms import ReplicaStatus


@pytest.mark.databases("sqlite", "mariadb")
def test_a_standby_launched_by_another_request_is_not_launched_again(
    make_app: Callable[..., Flask], simulated_folder: Path
) -> None:
    """Race: another request launches the standby after this request has read its row."""
    app = make_app(var=simulated_folder)
    sef, client = app.extensions["sef"], app.test_client()
    assert client.put("/api/agents/a", json={}).status_code == 200
    assert client.post("/api/agents/a/manual-replica/enable").status_code == 200

    def read_standby() -> Replica | None:
        return sef._database.read(live_standby, "a")

    standby = read_standby()
    assert standby is not None
    assert standby.instance_id is not None
    read_before = replace(
        standby,
        status=ReplicaStatus.LAUNCHING,
        instance_id=None,
        launched_at=None,
        ready_at=None,
        version=standby.version - 2,
    )

    agent = sef._database.read(read_agent, "a")
    launch.advance(sef._context, agent, read_before, None)

    assert read_standby() == standby
