"""Memory of a worker, and the time from the start to the first answer."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import requests

from bench import servers
from bench.host_info import children
from bench.parts.reports import LATER, WORKERS, greet, send_singles
from bench.results import Aim, Comparison
from bench.schedule import Run
from bench.workload import EVERY, START, agents, in_order
from sef.simulator.process import ensure_running
from tests.private_server import free_port

AGENTS, CONNECTIONS = 2000, 64
IDLE, LOADED = "right after start", "after a few seconds of reports on 64 connections"
BESIDE = "database and simulated EC2 already running"
ALONE = "SQLite, starting the simulated EC2 too"
POLL_SECONDS = 0.005
PATIENCE = 60


def measure(run: Run) -> Sequence[Comparison]:
    seconds = run.size(5, 1)
    with ExitStack() as stack:
        server = stack.enter_context(servers.mariadb())
        var = run.home / "var"
        stack.callback(ensure_running(var, pending_seconds=0).stop)
        url = server.url("sef")
        memory: dict[str, list[float]] = {IDLE: [], LOADED: []}
        names = agents(run.size(AGENTS, 200))

        def grown(number: int) -> float:
            with servers.sef(url, var, workers=WORKERS) as sef:
                memory[IDLE].append(max(workers_mebibytes(sef.pid)))
                start = START + LATER * number
                greet(sef, names, start - EVERY)
                send_singles(run, sef, in_order(names, start), CONNECTIONS, seconds)
                memory[LOADED].append(max(workers_mebibytes(sef.pid)))
                return memory[LOADED][-1]

        def beside(_: int) -> float:
            return start_seconds({"SEF_DATABASE_URL": url, "SEF_VAR": str(var)})

        def alone(number: int) -> float:
            return start_seconds({"SEF_VAR": str(run.home / f"alone{number}")})

        figures = run.in_turns({LOADED: grown, BESIDE: beside, ALONE: alone})
    return [
        Comparison(
            f"memory of a worker {LOADED}",
            "MiB",
            figures[LOADED],
            "the limit",
            [150.0] * len(figures[LOADED]),
            Aim(at_most=1),
            note="Memory is the resident set size that the kernel reports, including shared pages; "
            "of the two workers, the larger value counts.",
        ),
        Comparison(f"memory of a worker {IDLE}", "MiB", [round(m, 1) for m in memory[IDLE]]),
        Comparison(
            f"from start to first response, {BESIDE}",
            "s",
            figures[BESIDE],
            "the limit",
            [2.0] * len(figures[BESIDE]),
            Aim(at_most=1),
        ),
        Comparison(f"from start to first response, {ALONE}", "s", figures[ALONE]),
    ]


def start_seconds(environment: Mapping[str, str]) -> float:
    """Return the time from the start of the program to its first 200."""
    port = free_port()
    command = [sys.executable, "backend.py", "serve", "--workers", str(WORKERS)]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=servers.ROOT,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while time.perf_counter() < started + PATIENCE:
            with suppress(requests.RequestException):
                if requests.get(f"http://127.0.0.1:{port}/healthz", timeout=1).ok:
                    return time.perf_counter() - started
            time.sleep(POLL_SECONDS)
        raise RuntimeError(f"no answer within {PATIENCE} s")
    finally:
        process.terminate()
        process.wait()


def workers_mebibytes(pid: int) -> list[float]:
    """Return the resident memory of each worker of a server."""
    sizes = []
    for child in children(pid):
        if "backend.py" in Path(f"/proc/{child}/cmdline").read_text():
            status = Path(f"/proc/{child}/status").read_text()
            resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
            sizes.append(int(resident.split()[1]) / 1024)
    return sizes
