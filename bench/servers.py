"""The servers that are measured: a private MariaDB, SEF, and what it is measured against."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.mariadb import MariaDB, free_port

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def mariadb() -> Iterator[MariaDB]:
    """A server with a database `sef`, that flushes at every commit."""
    server = MariaDB(durable=True)
    server.start()
    server.execute("CREATE DATABASE sef")
    try:
        yield server
    finally:
        server.remove()


@contextmanager
def sef(database_url: str, var: Path, *, workers: int, **settings: str) -> Iterator[str]:
    """`backend.py serve` on a port of its own; gives the address."""
    command = [sys.executable, "backend.py", "serve", "--workers", str(workers)]
    environment = {"SEF_DATABASE_URL": database_url, "SEF_VAR": str(var), **settings}
    with _running(command, environment) as base:
        yield base


@contextmanager
def peer(database_url: str, *, workers: int) -> Iterator[str]:
    """`bench/before.py` under the same server as SEF."""
    granian = str(Path(sys.executable).parent / "granian")
    command = [granian, "--interface", "wsgi", "--factory", "--workers", str(workers)]
    command += ["--blocking-threads", "16", "--backpressure", "128", "bench.before:create_app"]
    with _running(command, {"BENCH_DATABASE_URL": database_url}) as base:
        yield base


@contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    mine = {"SEF_LOG_LEVEL": "error", "PYTHONPATH": str(ROOT)}
    at = command.index("serve") + 1 if "serve" in command else 1
    with open(os.devnull, "wb") as nowhere:
        process = subprocess.Popen(
            [*command[:at], "--port", str(port), *command[at:]],
            cwd=ROOT,
            env=os.environ | mine | environment,
            stdout=nowhere,
            stderr=nowhere,
        )
        try:
            _wait_for(base)
            yield base
        finally:
            process.terminate()
            process.wait()


def _wait_for(base: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            requests.get(f"{base}/healthz", timeout=1)
        except requests.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
