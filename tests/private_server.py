"""A private database server: its own folder, port and life, and nothing left behind."""

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

# The kernel ends the server with the *thread* that started it, so that one has to stay.
_starter = ThreadPoolExecutor(1, "server-starter")


def free_port() -> int:
    # Below the range that outgoing connections take theirs from: while the server is stopped, one
    # of those could sit on its port, or a client that keeps trying could connect to itself.
    for port in random.sample(range(15000, 32000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port between 15000 and 32000")


class PrivateServer:
    """What MariaDB and MySQL have in common: started, taken away, asked, removed."""

    name = ""
    """As people call it."""

    def __init__(self, *, durable: bool = False) -> None:
        """`durable` flushes at every commit, as a production server does."""
        self.home = Path(tempfile.mkdtemp(prefix="sef-server-"))
        self.port = free_port()
        self._flush = 1 if durable else 2
        self._process: subprocess.Popen[bytes] | None = None
        (self.home / "tmp").mkdir()  # a server that starts clears its own, and nobody else's
        self._make_data()

    def _make_data(self) -> None:
        raise NotImplementedError

    def _command(self) -> Sequence[str]:
        """The program, and the options that only this kind of server has."""
        raise NotImplementedError

    def _places(self) -> list[str]:
        return [f"--datadir={self.home / 'data'}", f"--tmpdir={self.home / 'tmp'}", *_as_root()]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        # Also a test run that is killed leaves no server behind.
        setpriv = shutil.which("setpriv")
        self._process = _starter.submit(
            subprocess.Popen,
            [
                *([setpriv, "--pdeathsig", "KILL"] if setpriv else []),
                *self._command(),
                *self._places(),
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
        """An open connection of the driver; the caller closes it."""
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
        """Drop a database, even from under those who are still connected to it."""
        connection = self.connect()
        cursor = connection.cursor()
        # A transaction that one of them left open would make DROP wait.
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (database,))
        for (number,) in cursor.fetchall():
            with suppress(mysql.connector.Error):  # it has gone by itself
                cursor.execute(f"KILL CONNECTION {number}")
        cursor.execute(f"DROP DATABASE {database}")
        connection.close()

    def url(self, database: str) -> str:
        query = "charset=utf8mb4&collation=utf8mb4_bin"
        return f"mysql+mysqlconnector://root@127.0.0.1:{self.port}/{database}?{query}"

    def kill(self) -> None:
        """As a power cut would; `start` brings the same data back on the same port."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            # Until the last of its threads has stopped, it may still answer.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)


def _as_root() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []
