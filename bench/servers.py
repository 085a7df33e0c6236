"""Start the servers of a measurement: a private MariaDB, SEF and its peers."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.mariadb import MariaDB, find
from tests.private_server import free_port

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60
PEER_THREADS = 32
"""SEF has 128, so that waiting reports share a commit; with 128 the peers are a third slower."""
NO_INFLUXDB = "absent: InfluxDB is not installed"

INFLUXDB = """\
reporting-disabled = true
bind-address = "127.0.0.1:{backup_port}"
[meta]
  dir = "{home}/meta"
[data]
  dir = "{home}/data"
  wal-dir = "{home}/wal"
  # As durable as a COMMIT: 0s means an fsync before each answer.
  wal-fsync-delay = "0s"
  query-log-enabled = false
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
[logging]
  level = "error"
"""


class Served(str):
    """The URL of a server, with its process."""

    pid: int


@contextmanager
def mariadb() -> Iterator[MariaDB]:
    """Run a MariaDB server that flushes at every commit, with a database `sef`."""
    if find() is None:
        raise RuntimeError("MariaDB is not installed: sudo apt install mariadb-server")
    server = MariaDB(durable=True)
    server.start()
    # Sizes for a server with some millions of rows.
    server.execute(f"SET GLOBAL innodb_buffer_pool_size = {2**30}")
    server.execute(f"SET GLOBAL innodb_log_file_size = {2**29}")
    server.execute("CREATE DATABASE sef")
    try:
        yield server
    finally:
        server.remove()


@contextmanager
def sef(database_url: str, var: Path, *, workers: int, **settings: str) -> Iterator[Served]:
    """Run `backend.py serve` on a free port."""
    command = [sys.executable, "backend.py", "serve", "--workers", str(workers)]
    environment = {"SEF_DATABASE_URL": database_url, "SEF_VAR": str(var), **settings}
    with _running(command, environment) as base:
        yield base


@contextmanager
def peer(database_url: str, *, workers: int) -> Iterator[Served]:
    """Run `bench/peers.py` with Granian, as SEF runs."""
    granian = str(Path(sys.executable).parent / "granian")
    threads = PEER_THREADS
    command = [granian, "--interface", "wsgi", "--factory", "--workers", str(workers)]
    command += ["--blocking-threads", str(threads), "--backpressure", str(4 * threads)]
    with _running([*command, "bench.peers:create_app"], {"BENCH_DATABASE_URL": database_url}) as at:
        yield at


@contextmanager
def influxdb(home: Path) -> Iterator[Served | None]:
    """Run a private InfluxDB 1 with a database `bench`; yield None if it is not installed."""
    program = shutil.which("influxd")
    if program is None:
        yield None
        return
    home.mkdir(parents=True)
    port = free_port()
    config = INFLUXDB.format(home=home, port=port, backup_port=free_port())
    (home / "influxdb.conf").write_text(config)
    with _started([program, "-config", str(home / "influxdb.conf")], port, {}, "/ping") as base:
        query = {"q": "CREATE DATABASE bench"}
        requests.post(f"{base}/query", data=query, timeout=PATIENCE).raise_for_status()
        yield base


@contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[Served]:
    port = free_port()
    mine = {"SEF_LOG_LEVEL": "error", "PYTHONPATH": str(ROOT)}
    at = command.index("serve") + 1 if "serve" in command else 1
    whole = [*command[:at], "--port", str(port), *command[at:]]
    with _started(whole, port, mine | environment, "/healthz") as base:
        yield base


@contextmanager
def _started(
    command: Sequence[str], port: int, environment: Mapping[str, str], alive: str
) -> Iterator[Served]:
    base = Served(f"http://127.0.0.1:{port}")
    with open(os.devnull, "wb") as nowhere:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdout=nowhere, stderr=nowhere
        )
        base.pid = process.pid
        try:
            _wait_for(f"{base}{alive}", process)
            yield base
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            requests.get(url, timeout=1)
        except requests.RequestException:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
