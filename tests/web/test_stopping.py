"""A server stops on every signal, answers its requests first, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
import requests

from sef.simulator.process import ensure_running, find_running
from tests.private_server import free_port
from tests.waiting import LIMIT, until
from tests.web.server import ROOT

Process = subprocess.Popen[str]
Serve = Callable[..., Process]

WITHOUT_EC2 = {
    "SEF_CLOUD": "aws",
    "SEF_REGION": "us-east-1",
    "SEF_EC2_ENDPOINT": "http://127.0.0.1:9",
    "SEF_RUN_JOBS": "false",
}
"""Settings of a server that calls no EC2."""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def serve(tmp_path: Path, port: int) -> Iterator[Serve]:
    """Start servers with two workers, each in a process group of its own as a shell does.

    Without settings a server also starts the simulated EC2.
    """
    started = []

    def start(**settings: str) -> Process:
        process = subprocess.Popen(
            [sys.executable, "backend.py", "serve", "--port", str(port), "--workers", "2"],
            cwd=ROOT,
            env=os.environ | {"SEF_VAR": str(tmp_path)} | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        until(lambda: answers(port))
        return process

    yield start
    for process in started:
        subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
        process.wait()
    subprocess.run(["pkill", "-f", f"sef.simulator.server --state {tmp_path}"], check=False)


@pytest.fixture
def master(serve: Serve) -> Process:
    return serve()


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=LIMIT).ok
    except requests.RequestException:
        return False


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("attempt", range(3))
def test_ctrl_c_in_a_terminal_stops_it_without_a_traceback(
    master: Process, port: int, attempt: int
) -> None:
    os.killpg(master.pid, signal.SIGINT)  # a terminal signals the whole process group
    output, _ = master.communicate(timeout=LIMIT)
    assert "Traceback" not in output
    assert output.rstrip().endswith("SEF has stopped.")
    assert is_free(port)


def test_sigterm_to_every_process_at_once_stops_it(master: Process, port: int) -> None:
    """With systemd the workers get the signal twice: from systemd and from their master."""
    subprocess.run(["pkill", "-TERM", "-s", str(master.pid)], check=True)
    master.communicate(timeout=LIMIT)
    assert is_free(port)


def test_sigterm_stops_it_after_the_requests_in_progress_are_answered(
    master: Process, port: int, tmp_path: Path
) -> None:
    ec2 = find_running(tmp_path)
    assert ec2 is not None
    base = f"http://127.0.0.1:{port}/api/agents/a"
    agent = {"instance_id": "i-0123456789abcdef0", "pool_id": "m5.large.us-east-1a"}
    requests.put(base, json=agent, timeout=LIMIT).raise_for_status()
    ec2.add_fault("RunInstances", delay_seconds=3)
    notice = {"signal_type": "termination-notice", "timestamp": time.time()}
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(requests.post, f"{base}/interruption", json=notice, timeout=LIMIT)
        until(lambda: requests.get(f"{base}/sef-status", timeout=LIMIT).json()["incident"])
        master.terminate()
        assert answer.result().status_code == 200
    output, _ = master.communicate(timeout=LIMIT)
    assert "Traceback" not in output
    assert is_free(port)


def test_acknowledged_reports_are_stored_after_a_stop(serve: Serve, port: int) -> None:
    master = serve(**WITHOUT_EC2)
    acknowledged = []

    def report(number: int) -> None:
        for minute in range(10_000):
            at = 1_700_000_000 + 300 * minute
            body = {"spot_price": 0.05, "pool_id": "m5.large.us-east-1a", "timestamp": at}
            try:
                requests.post(prices_of(port, number), json=body, timeout=LIMIT).raise_for_status()
            except requests.RequestException:
                return
            acknowledged.append((number, at))

    with ThreadPoolExecutor(8) as threads:
        clients = [threads.submit(report, number) for number in range(8)]
        until(lambda: len(acknowledged) > 200)
        master.terminate()
        for client in clients:
            client.result()
    master.communicate(timeout=LIMIT)
    serve(**WITHOUT_EC2)
    for number in range(8):
        points = requests.get(prices_of(port, number), timeout=LIMIT).json()["points"]
        stored = {datetime.fromisoformat(point["timestamp"]).timestamp() for point in points}
        assert stored >= {at for agent, at in acknowledged if agent == number}


def prices_of(port: int, number: int) -> str:
    return f"http://127.0.0.1:{port}/api/agents/agent-{number}/pricing"


def test_a_killed_worker_is_replaced(serve: Serve, port: int) -> None:
    master = serve(**WITHOUT_EC2)
    before = workers_of(master)
    # If the only worker that listens dies, the port refuses connections until another listens.
    until(lambda: listening(port) == len(before))
    killed = Path(f"/proc/{before[0]}")
    os.kill(before[0], signal.SIGKILL)
    # A dying process loses its command line before its sockets, so wait until it is reaped. A
    # connection that its socket still accepted would be reset.
    until(lambda: not killed.exists() and listening(port) == len(before))
    for _ in range(20):
        answer = requests.get(f"http://127.0.0.1:{port}/readyz", timeout=LIMIT)
        assert answer.ok, answer.text


def listening(port: int) -> int:
    """Return the number of sockets that listen on a port: each worker has its own."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def workers_of(master: Process) -> list[int]:
    """Return the worker processes: the children with the command line of their master."""
    children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
    command = Path(f"/proc/{master.pid}/cmdline").read_bytes()
    return [int(p) for p in children if Path(f"/proc/{p}/cmdline").read_bytes() == command]


def test_a_killed_master_takes_its_workers_along_but_not_the_simulated_ec2(
    serve: Serve, port: int, tmp_path: Path
) -> None:
    """EC2 outlives a crash of the backend. A regular stop of the next server ends it."""
    killed = serve()
    killed.kill()
    killed.wait()
    until(lambda: is_free(port))  # the workers have ended
    before = find_running(tmp_path)
    assert before is not None
    pid = before.health()["pid"]
    second = serve()
    after = find_running(tmp_path)
    assert after is not None
    assert after.health()["pid"] == pid
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=LIMIT)
    assert find_running(tmp_path) is None


def test_a_simulated_ec2_that_was_running_before_keeps_running(
    serve: Serve, tmp_path: Path
) -> None:
    ensure_running(tmp_path)
    server = serve()
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=LIMIT)
    assert find_running(tmp_path) is not None
