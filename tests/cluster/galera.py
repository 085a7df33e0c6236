"""Run MariaDB servers as a Galera cluster on loopback."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mysql.connector

from tests import mariadb as mariadb_server
from tests.mariadb import MariaDB
from tests.private_server import free_port

PROVIDERS = ("/usr/lib/galera/libgalera_smm.so", "/usr/lib/libgalera_smm.so")
SYNCED_SECONDS = 60


def find() -> str | None:
    """Return the path of Galera's library, or None unless it and the server are installed."""
    if mariadb_server.find() is None:
        return None
    return next((path for path in PROVIDERS if Path(path).exists()), None)


class Node(MariaDB):
    """A node of the cluster.

    Its data are a copy of the first node's data. So no node needs a full copy later: it gets the
    missed changes from the caches of the other nodes.
    """

    name = "a Galera node"

    def __init__(self, number: int, like: "Node | None") -> None:
        self.number = number
        self.group_port, self.transfer_port = free_port(), free_port()
        self.members: list[Node] = []
        self._like = like
        self._first_start = like is None
        self._position: str | None = None
        super().__init__()

    def _make_data(self) -> None:
        if self._like is None:
            super()._make_data()
        else:
            shutil.copytree(self._like.home / "data", self.home / "data")

    def _command(self) -> Sequence[str]:
        members = ",".join(f"127.0.0.1:{node.group_port}" for node in self.members)
        provider = {
            "base_host": "127.0.0.1",
            "base_port": self.group_port,
            "gmcast.listen_addr": f"tcp://127.0.0.1:{self.group_port}",
            "ist.recv_addr": f"127.0.0.1:{self.transfer_port}",
            "gcache.size": "64M",
        }
        return [
            "env",
            f"PATH={Path(__file__).parent / 'bin'}:{os.environ['PATH']}",
            *super()._command(),
            "--wsrep-on=ON",
            f"--wsrep-provider={find()}",
            f"--wsrep-cluster-address=gcomm://{members}",
            "--wsrep-cluster-name=sef",
            f"--wsrep-node-name=node-{self.number}",
            "--wsrep-node-address=127.0.0.1",
            f"--wsrep-node-incoming-address=127.0.0.1:{self.port}",
            "--wsrep-sst-method=missed",
            "--wsrep-provider-options=" + ";".join(f"{k}={v}" for k, v in provider.items()),
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            *(["--wsrep-new-cluster"] if self._first_start else []),
            *([f"--wsrep-start-position={self._position}"] if self._position else []),
        ]

    def start(self) -> None:
        super().start()
        self._first_start = False
        self.wait_until_synced()

    def wait_until_synced(self) -> None:
        deadline = time.monotonic() + SYNCED_SECONDS
        while self.status("wsrep_local_state_comment") != "Synced":
            if time.monotonic() > deadline:
                tail = (self.home / "server.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"node {self.number} did not join:\n{tail}")
            time.sleep(0.1)

    def status(self, name: str) -> str:
        try:
            connection = self.connect()
        except mysql.connector.Error:
            return ""
        with connection.cursor() as cursor:
            cursor.execute(f"SHOW GLOBAL STATUS LIKE '{name}'")
            rows: Any = cursor.fetchall()
        connection.close()
        return str(rows[0][1]) if rows else ""

    def stop(self) -> None:
        """Stop the node as an operator does; `start` starts it again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
            self._process = None

    def recover(self) -> None:
        """Start again after `kill`, from the last transaction in the data."""
        done = subprocess.run(
            [
                *super()._command(),
                *self._paths(),
                "--wsrep-recover",
                "--wsrep-on=ON",
                f"--wsrep-provider={find()}",
                "--wsrep-cluster-address=gcomm://",  # required, but not used
                "--binlog-format=ROW",
                "--disable-log-error",
                "--skip-networking",
                "--socket=socket",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        positions = re.findall(r"Recovered position: *(\S+)", done.stderr)
        assert positions, done.stderr[-2000:]
        self._position = positions[-1]
        try:
            self.start()
        finally:
            self._position = None

    def isolate(self, isolated: bool) -> None:
        """Cut the node off from the other nodes, not from its clients; or reconnect it."""
        connection = self.connect()
        with connection.cursor() as cursor:
            cursor.execute(f"SET GLOBAL wsrep_provider_options = 'gmcast.isolate={int(isolated)}'")
        connection.close()


@contextmanager
def cluster(size: int = 3) -> Iterator[list[Node]]:
    nodes: list[Node] = []
    try:
        first = Node(1, None)
        nodes.append(first)
        first.members = [first]
        first.start()  # writes the identity of the cluster into the data
        first.stop()
        nodes += [Node(number, first) for number in range(2, size + 1)]
        first._first_start = True
        for node in nodes:
            node.members = nodes
            node.start()
        yield nodes
    finally:
        for node in nodes:
            node.remove()
