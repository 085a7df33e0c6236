"""A server stops when it is told to, whoever tells it and how."""

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

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def serve(tmp_path: Path, port: int) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a server in a process group of its own, as a shell does."""
    started = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "backend.py", "serve", "--port", str(port), "--workers", "2"],
            cwd=ROOT,
            env=os.environ | {"SEF_VAR": str(tmp_path)},
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
def master(serve: Callable[[], subprocess.Popen[str]]) -> subprocess.Popen[str]:
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
def test_ctrl_c_in_a_terminal_stops_it_without_a_traceback(master, port, attempt) -> None:
    os.killpg(master.pid, signal.SIGINT)  # a terminal sends it to the whole group
    output, _ = master.communicate(timeout=LIMIT)
    assert "Traceback" not in output
    assert output.rstrip().endswith("SEF has stopped.")
    assert is_free(port)


def test_it_stops_when_every_process_is_told_at_once(master, port) -> None:
    """As systemd does it: the workers get the signal twice, once from their master."""
    subprocess.run(["pkill", "-TERM", "-s", str(master.pid)], check=True)
    master.communicate(timeout=LIMIT)
    assert is_free(port)


def test_sigterm_stops_it(master, port) -> None:
    master.terminate()
    output, _ = master.communicate(timeout=LIMIT)
    assert "Traceback" not in output
    assert is_free(port)


def test_what_is_under_way_is_answered_before_it_stops(master, port, tmp_path) -> None:
    ec2 = find_running(tmp_path)
    base = f"http://127.0.0.1:{port}/api/agents/a"
    told = {"instance_id": "i-0123456789abcdef0", "pool_id": "m5.large.us-east-1a"}
    requests.put(base, json=told, timeout=LIMIT).raise_for_status()
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


def test_reports_that_were_acknowledged_are_there_after_a_stop(serve, port) -> None:
    master = serve()
    acknowledged = []

    def report(number: int) -> None:
        for minute in range(10_000):
            at = 1_700_000_000 + 300 * minute
            told = {"spot_price": 0.05, "pool_id": "m5.large.us-east-1a", "timestamp": at}
            try:
                requests.post(prices_of(port, number), json=told, timeout=LIMIT).raise_for_status()
            except requests.RequestException:
                return
            acknowledged.append((number, at))

    with ThreadPoolExecutor(8) as threads:
        done = [threads.submit(report, number) for number in range(8)]
        until(lambda: len(acknowledged) > 200)
        master.terminate()
        for one in done:
            one.result()
    master.communicate(timeout=LIMIT)
    serve()
    for number in range(8):
        points = requests.get(prices_of(port, number), timeout=LIMIT).json()["points"]
        stored = {datetime.fromisoformat(point["timestamp"]).timestamp() for point in points}
        assert stored >= {at for agent, at in acknowledged if agent == number}


def prices_of(port: int, number: int) -> str:
    return f"http://127.0.0.1:{port}/api/agents/agent-{number}/pricing"


def test_a_worker_that_is_killed_is_replaced(master, port) -> None:
    before = workers_of(master)
    # If the only worker that listens dies, the port refuses connections until another listens.
    until(lambda: listening(port) == len(before))
    os.kill(before[0], signal.SIGKILL)
    until(lambda: before[0] not in workers_of(master) and listening(port) == len(before))
    for _ in range(20):
        answer = requests.get(f"http://127.0.0.1:{port}/readyz", timeout=LIMIT)
        assert answer.ok, answer.text


def listening(port: int) -> int:
    """Return the number of sockets that listen on a port: each worker has its own."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def workers_of(master: subprocess.Popen[str]) -> list[int]:
    """Its children that are forks of it; the simulated EC2 is another one."""
    children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
    command = Path(f"/proc/{master.pid}/cmdline").read_bytes()
    return [int(p) for p in children if Path(f"/proc/{p}/cmdline").read_bytes() == command]


def test_the_workers_of_a_master_that_is_killed_give_the_port_back(master, port) -> None:
    master.kill()
    master.wait()
    until(lambda: is_free(port))


def test_a_killed_one_leaves_the_simulated_ec2_and_the_next_takes_it_along(
    serve, port, tmp_path
) -> None:
    """EC2 does not end with the backend; but who stops the backend is done with all of it."""
    killed = serve()
    killed.kill()
    killed.wait()
    until(lambda: is_free(port))
    left = find_running(tmp_path)
    assert left is not None
    pid = left.health()["pid"]
    second = serve()
    assert find_running(tmp_path).health()["pid"] == pid
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=LIMIT)
    assert find_running(tmp_path) is None


def test_a_simulated_ec2_that_somebody_else_started_is_left_to_them(serve, tmp_path) -> None:
    ensure_running(tmp_path)
    server = serve()
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=LIMIT)
    assert find_running(tmp_path) is not None
