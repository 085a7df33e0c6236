"""Start backends quickly: a process that has imported everything forks for each backend.

A start takes most of the time of a crash test, and imports take most of a start. A forked backend
runs the same command, `backend.py serve`, with its own master and worker, in its own session.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent.parent


class ForkServer:
    """The client of the forking process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.fork_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: IO[Any]
    ) -> "Forked":
        request = {"arguments": arguments, "environment": dict(environment), "log": log.name}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Forked(int(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()


class Forked:
    """A process that is no child of this one, with the methods of `Popen` that a Server needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self._handle = -1

    def poll(self) -> int | None:
        return 0 if self._ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired("a forked backend", timeout or 0)
        return 0

    def terminate(self) -> None:
        if not self._ended(0):
            signal.pidfd_send_signal(self._handle, signal.SIGTERM)

    def _ended(self, within: float | None) -> bool:
        """Return True if the process ends within some seconds; None waits without a limit."""
        if self._handle >= 0 and select.select([self._handle], [], [], within)[0]:
            os.close(self._handle)
            self._handle = -1
        return self._handle < 0


def main() -> None:
    import backend
    from sef import jobs

    # Not a setting, because only these tests need shorter intervals.
    jobs.RETENTION_EVERY = 0.25

    # This process does not wait for its children: the kernel removes them when they end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            serve(backend, **request)
        print(pid, flush=True)


def serve(backend: Any, arguments: list[str], environment: dict[str, str], log: str) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    from tests.web.server import stop_with_parent

    stop_with_parent()
    try:
        backend.main(arguments, standalone_mode=False)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
