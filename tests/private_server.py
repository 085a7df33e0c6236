"""Run a private database server in its own folder and on its own port, and remove it completely."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import mysql.connector

from tests.waiting import LIMIT

# The kernel kills the server when the *thread* that started it ends, so one thread starts all
# servers and lives as long as the process.
_starter = ThreadPoolExecutor(1, "server-starter")


def free_port() -> int:
    # Below the range of outgoing connections: while a server is stopped, an outgoing connection
    # could take its port, or a client that retries could connect to itself.
    for port in random.sample(range(15000, 32000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port between 15000 and 32000")


class PrivateServer:
    """A MariaDB or MySQL server that a test can start, kill, freeze and remove."""

    name = ""
    """Name for messages."""

    def __init__(self, *, durable: bool = False) -> None:
        """Create the data folder; `durable` flushes at every commit, as in production."""
        self.home = Path(tempfile.mkdtemp(prefix="sef-server-"))
        self.port = free_port()
        self._flush = 1 if durable else 2
        self._process: subprocess.Popen[bytes] | None = None
        (self.home / "tmp").mkdir()  # a starting server empties its folder of temporary files
        self._make_data()

    def _make_data(self) -> None:
        raise NotImplementedError

    def _command(self) -> Sequence[str]:
        """Return the program and the options of this kind of server."""
        raise NotImplementedError

    def _paths(self) -> list[str]:
        return [f"--datadir={self.home / 'data'}", f"--tmpdir={self.home / 'tmp'}", *_as_root()]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        # With setpriv, the server also ends if the test run is killed.
        setpriv = shutil.which("setpriv")
        self._process = _starter.submit(
            subprocess.Popen,
            [
                *([setpriv, "--pdeathsig", "KILL"] if setpriv else []),
                *self._command(),
                *self._paths(),
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                "--socket=socket",  # in the data folder; a whole path may be too long for one
                f"--pid-file={self.home / 'pid'}",
                f"--log-error={self.home / 'server.log'}",
                "--skip-log-bin",
                "--innodb-buffer-pool-size=128M",
                "--max-connections=300",
                f"--innodb-flush-log-at-trx-commit={self._flush}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).result()
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                self.connect().close()
                return
            except mysql.connector.Error as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = self.home / "server.log"
                    tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
                    raise RuntimeError(f"{self.name} did not start:\n{tail}") from error
                time.sleep(0.05)

    def connect(self, database: str = "") -> mysql.connector.MySQLConnection:
        """Open a connection of the driver, which the caller closes."""
        return mysql.connector.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            database=database or None,
            charset="utf8mb4",
            collation="utf8mb4_bin",
        )

    def execute(self, statement: str) -> None:
        connection = self.connect()
        connection.cursor().execute(statement)
        connection.commit()
        connection.close()

    def drop(self, database: str) -> None:
        """Drop a database, and kill the connections that still use it."""
        connection = self.connect()
        cursor = connection.cursor()
        # DROP would wait for an open transaction of such a connection.
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (database,))
        for (number,) in cursor.fetchall():
            with suppress(mysql.connector.Error):  # it was closed meanwhile
                cursor.execute(f"KILL CONNECTION {number}")
        cursor.execute(f"DROP DATABASE {database}")
        connection.close()

    def url(self, database: str) -> str:
        query = "charset=utf8mb4&collation=utf8mb4_bin"
        return f"mysql+mysqlconnector://root@127.0.0.1:{self.port}/{database}?{query}"

    def kill(self) -> None:
        """Kill the server, as a power cut would; `start` uses the same data and port again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            # The server may answer until its last thread has stopped.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)


def _as_root() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []
