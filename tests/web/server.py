"""A real `python backend.py serve`, as a process of its own."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

import requests

from tests.private_server import free_port
from tests.waiting import LIMIT

ROOT = Path(__file__).resolve().parent.parent.parent


def stop_with_parent() -> None:
    # PR_SET_PDEATHSIG: even if the test run is killed, no server is left behind.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Process(Protocol):
    """The methods of a process that `Server` uses."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...


Start = Callable[[Sequence[str], Mapping[str, str], IO[Any]], Process]


def start(arguments: Sequence[str], environment: Mapping[str, str], log: IO[Any]) -> Process:
    return subprocess.Popen(
        [sys.executable, "backend.py", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=log,
        preexec_fn=stop_with_parent,
        start_new_session=True,
    )


class Server:
    """A backend on one database, with its own folder and port."""

    def __init__(
        self,
        folder: Path,
        database_url: str = "",
        *,
        start: Start = start,
        **environment: str,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "server.log"
        mine = {
            "SEF_VAR": str(folder),
            "SEF_DATABASE_URL": database_url,
            "SEF_LOG_LEVEL": "warning",
            "SEF_RUN_JOBS": "false",
            "SEF_REGION": "us-east-1",
        }
        with self._log.open("ab") as log:
            self._process = start(
                ["serve", "--port", str(self.port)], os.environ | mine | environment, log
            )
        deadline = time.monotonic() + LIMIT
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the server did not start:\n{self._log.read_text()}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=LIMIT).ok
        except requests.ConnectionError:
            return False

    def last_log_lines(self, count: int = 60) -> str:
        return "\n".join(self._log.read_text().splitlines()[-count:])

    def freeze(self) -> None:
        """Stop all processes of the server; `thaw` continues them."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill all processes of the server at once, as a host crash does."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def ended(self, within: float = 0) -> bool:
        """Return True if the server has ended; wait up to `within` seconds for that."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(within)
        return self._process.poll() is not None

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
