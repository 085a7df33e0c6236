"""A server stops when it is told to, whoever tells it and how."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.mariadb import free_port

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def master(tmp_path: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A server in a process group of its own, as a shell starts one."""
    process = subprocess.Popen(
        [sys.executable, "backend.py", "serve", "--port", str(port), "--workers", "2"],
        cwd=ROOT,
        env=os.environ | {"SEF_VAR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    until(lambda: answers(port))
    yield process
    subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
    subprocess.run(["pkill", "-f", f"sef.cloud.simulated --state {tmp_path}"], check=False)
    process.wait()


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=2).ok
    except requests.RequestException:
        return False


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def until(holds) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("attempt", range(3))
def test_ctrl_c_in_a_terminal_stops_it_without_a_traceback(master, port, attempt) -> None:
    os.killpg(master.pid, signal.SIGINT)  # a terminal sends it to the whole group
    output, _ = master.communicate(timeout=30)
    assert "Traceback" not in output
    assert output.rstrip().endswith("SEF has stopped.")
    assert is_free(port)


def test_it_stops_when_every_process_is_told_at_once(master, port) -> None:
    """As systemd does it: the workers get the signal twice, once from their master."""
    subprocess.run(["pkill", "-TERM", "-s", str(master.pid)], check=True)
    master.communicate(timeout=60)
    assert is_free(port)


def test_sigterm_stops_it(master, port) -> None:
    master.terminate()
    output, _ = master.communicate(timeout=30)
    assert "Traceback" not in output
    assert is_free(port)


def test_the_workers_of_a_master_that_is_killed_give_the_port_back(master, port) -> None:
    master.kill()
    master.wait()
    until(lambda: is_free(port))
