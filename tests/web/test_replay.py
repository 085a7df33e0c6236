"""Real price changes, over several connections, in any order, end in the series of the rules."""

import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.web.server import ROOT, Server

PRICES = ROOT / "tests" / "data" / "spot_prices_us-east-1.csv"


def replay(
    server: Server, *arguments: str, file: Path = PRICES
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "bench/replay.py", "--url", server.url, "--file", str(file), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("arguments", "points"),
    [
        pytest.param(["--order", "file", "--batch", "20"], 749, id="in the order of the file"),
        pytest.param(["--order", "shuffled"], 749, id="shuffled, each in a request of its own"),
        pytest.param(["--order", "doubled", "--batch", "7"], 749, id="each sent twice"),
        pytest.param(["--order", "dual", "--batch", "20"], 775, id="by a primary and a replica"),
    ],
)
def test_the_series_is_the_one_that_the_rules_make(
    server: Server, arguments: list[str], points: int
) -> None:
    done = replay(server, *arguments)
    assert (done.stdout, done.returncode) == (f"identical: {points} points\n", 0), done.stderr


def test_a_point_too_many_is_found(server: Server, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    few.write_text("".join(PRICES.read_text().splitlines(keepends=True)[:2]))
    requests.post(
        f"{server.url}/api/agents/other/pricing",
        json={"spot_price": 0.01, "pool_id": "us-east-1", "timestamp": "2020-01-01T00:00:00Z"},
    ).raise_for_status()

    done = replay(server, "--agent", "other", file=few)

    assert done.returncode == 1
    assert done.stdout == (
        "different at point 1: expected 2026-02-27T21:02:32+00:00 0.004700000 normal, "
        "found 2020-01-01T00:00:00+00:00 0.010000000 normal\n"
    )


def test_a_server_that_refuses_is_told(server: Server) -> None:
    done = replay(server, "--agent", "not an agent", "--connections", "1")
    assert done.returncode == 1
    assert "invalid_agent_id" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "bench/replay.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    for option in ("--url", "--file", "--order", "--connections", "--batch"):
        assert option in done.stdout
