"""`sef adopt` lists and adopts the instances that the rows do not know."""

import json
from typing import Any

import pytest
from click.testing import CliRunner
from flask import Flask

from sef.errors import CloudUnavailable
from sef.main import main
from sef.web.fleet import fleet_blueprint
from tests.harness import ALIVE, ONCE, World

TOKEN = "replica-0123456789abcdef-{}"


def unknown(world: World, number: int = 1, agent_id: str = "a") -> str:
    """Launch an instance as SEF does, without a row that knows the launch."""
    [deployment] = world.rows("deployment", None)
    tags = {
        "sef:managed": deployment.name,
        "sef:agent": agent_id,
        "sef:attempt": TOKEN.format(number),
    }
    spec = [{"Key": key, "Value": value} for key, value in tags.items()]
    return world.launch(TagSpecifications=[{"ResourceType": "instance", "Tags": spec}])


@pytest.fixture
def sef(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the façade that the command uses."""
    sef = world.sef()
    sef.sweep_orphans()
    monkeypatch.setattr("sef.main.SmartEmergencyFallback", lambda *_, **__: sef)
    monkeypatch.setattr("sef.main.init_db_command.create_tables", lambda _: [])
    return sef


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["adopt", *arguments])
    return result.exit_code, result.output


@ONCE
def test_without_unknown_instances_there_is_nothing_to_do(world: World, sef: Any) -> None:
    world.primary(sef)
    assert run() == (0, "SEF knows every running instance that it launched.\n")


@ONCE
def test_the_command_lists_and_adopts_what_is_undisputed(world: World, sef: Any) -> None:
    dead = world.primary(sef)
    other = world.primary(sef, "b")
    serving, spare = unknown(world), unknown(world, 2, "b")
    world.simulation.terminate(dead)
    world.clock.advance(600)
    for arguments in ((), ("--dry-run",), ("--yes", "--dry-run")):
        code, output = run(*arguments)
        assert code == 1
        assert f"adopt --agent a --instance {serving} --as primary --yes" in output
        assert f"--instance {spare} --as surplus --yes" in output
        assert world.agent().instance_id == dead

    code, output = run("--yes")
    assert code == 1
    assert "These need your decision:" in output
    assert (world.agent().instance_id, world.agent("b").instance_id) == (serving, other)

    assert run("--agent", "b", "--instance", spare, "--as", "surplus", "--yes")[0] == 0
    world.settle(sef, 5)
    assert world.state(spare) not in ALIVE
    assert run("--yes")[0] == 0


@ONCE
def test_an_error_is_one_line(world: World, sef: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.simulation.add_fault("DescribeInstances", error_code="ServiceUnavailable")
    code, output = run()
    assert code == 1
    assert output.startswith("Error: EC2 did not return a usable answer")
    assert output.count("\n") == 1
    with pytest.raises(CloudUnavailable):
        sef.adopt_instance("a", "i-1")
    assert run("--agent", "a")[0] == 2
    assert "--as surplus" not in run("--help")[1]
    assert "SEF terminates it" in run("--help")[1]


@ONCE
def test_the_call_adopts_over_http(world: World, sef: Any) -> None:
    dead = world.primary(sef)
    serving = unknown(world)
    world.simulation.terminate(dead)
    app = Flask(__name__)
    app.register_blueprint(fleet_blueprint(sef))
    client = app.test_client()

    def post(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        answer = client.post("/api/agents/a/adopt", data=json.dumps(body))
        return answer.status_code, answer.get_json()

    for body, reason in (
        ({}, "invalid_instance_id"),
        ({"instance_id": serving, "role": "king"}, "invalid_role"),
        ({"instance_id": serving, "as": "primary"}, "unknown_field"),
    ):
        status, answer = post(body)
        assert (status, answer["reason"]) == (400, reason)
    status, answer = post({"instance_id": serving})
    assert (status, answer["role"], answer["former_primary"]) == (200, "primary", dead)
    assert world.agent().instance_id == serving
    assert client.put("/api/agents/a/adopt", data="{}").status_code == 405
