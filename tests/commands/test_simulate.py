"""`sef simulate`: messages of commands that cannot run. The README's tour runs the others."""

from pathlib import Path

import pytest

from tests.commands.in_process import invoke
from tests.private_server import free_port


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr("sef.commands.simulate.ensure_running", lambda folder: None)
    return {"SEF_VAR": str(tmp_path), "SEF_PORT": str(free_port())}


def test_without_a_backend_the_message_names_the_ways_to_start_it(
    environment: dict[str, str],
) -> None:
    result = invoke("simulate", "interrupt", "web-1", environment=environment)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: No backend answers at http://127.0.0.1:{environment['SEF_PORT']}. "
        "Start it with `sef serve` or `make run`, or set SEF_PORT to its port.\n"
    )


def test_amazon_ec2_is_never_changed(environment: dict[str, str]) -> None:
    result = invoke("simulate", "instances", environment=environment | {"SEF_CLOUD": "aws"})
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: SEF_CLOUD is aws; `simulate` changes the simulated EC2 only.\n"
    )


def test_a_pool_needs_a_capacity_or_a_price(environment: dict[str, str]) -> None:
    result = invoke("simulate", "pool", "m5.large.us-east-1a", environment=environment)
    assert result.exit_code == 2
    assert "Give --capacity, --no-capacity or --price." in result.stderr
