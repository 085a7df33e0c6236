"""Two requests that enable manual mode at once work on one standby."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flask import Flask

from sef.agents import read_agent
from sef.failover.instances import launch
from sef.failover.standbys.rows import Replica, live_standby
from sef.terms import ReplicaStatus


def test_a_standby_that_another_request_has_just_launched_is_looked_at_again(
    make_app: Callable[..., Flask], simulated_folder: Path
) -> None:
    """A request reads the standby before its instance is known, and the attempts after the launch.

    Another request launches the standby in between.
    """
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
