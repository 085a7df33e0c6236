"""Real price changes, sent over several connections in any order, give the expected series."""

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
        pytest.param(["--order", "shuffled"], 749, id="shuffled, one report in a request"),
        pytest.param(["--order", "doubled", "--batch", "7"], 749, id="each sent twice"),
        pytest.param(["--order", "dual", "--batch", "20"], 775, id="by a primary and a replica"),
    ],
)
@pytest.mark.databases("sqlite", "mariadb")
def test_the_series_follows_the_rules(server: Server, arguments: list[str], points: int) -> None:
    process = replay(server, *arguments)
    assert (process.stdout, process.returncode) == (f"identical: {points} points\n", 0), (
        process.stderr
    )


def test_an_additional_point_is_reported(server: Server, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    few.write_text("".join(PRICES.read_text().splitlines(keepends=True)[:2]))
    requests.post(
        f"{server.url}/api/agents/other/pricing",
        json={"spot_price": 0.01, "pool_id": "us-east-1", "timestamp": "2020-01-01T00:00:00Z"},
    ).raise_for_status()

    process = replay(server, "--agent", "other", file=few)

    assert process.returncode == 1
    assert process.stdout == (
        "different at point 1: expected 2026-02-27T21:02:32+00:00 0.004700000 normal, "
        "found 2020-01-01T00:00:00+00:00 0.010000000 normal\n"
    )


def test_the_error_of_the_server_is_printed(server: Server) -> None:
    process = replay(server, "--agent", "not an agent", "--connections", "1")
    assert process.returncode == 1
    assert "invalid_agent_id" in process.stderr
    assert "Traceback" not in process.stderr


def test_help_lists_the_options() -> None:
    process = subprocess.run(
        [sys.executable, "bench/replay.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0
    for option in ("--url", "--file", "--order", "--connections", "--batch"):
        assert option in process.stdout
