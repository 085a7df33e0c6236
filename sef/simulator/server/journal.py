"""Keep the journal of the simulated EC2: every change in order, replayed at a restart."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

Record = dict[str, Any]

FORMAT = 1
LOCK_WAIT_SECONDS = 5.0


class StateUnusable(Exception):
    """The state folder cannot be used. The message is one line with the cause and a remedy."""


class Journal:
    """A file of JSON lines, one per change, each written before the change is made.

    When `append` returns, the operating system has the record, but it need not be on disk: it
    survives a killed process, not a power failure. The process locks the file as long as it
    lives, so no second process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock()

    def read(self) -> Iterator[Record]:
        """Yield every complete record; truncate a last line that a crash left incomplete.

        The change of an incomplete record was never made.

        Raises:
            StateUnusable: a line is not JSON.
        """
        with self._path.open("rb") as lines:
            complete_bytes = 0
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                except ValueError:
                    raise StateUnusable(
                        f"{self._path}, line {number}, is not JSON; "
                        "move the file away to start with an empty simulated EC2"
                    ) from None
                yield record
                complete_bytes += len(line)
        os.ftruncate(self._file, complete_bytes)

    def append(self, record: Record) -> None:
        """Write one record, completely or not at all.

        Raises:
            OSError: the record was not written, for example because the disk is full; the caller
                must not make the change.
        """
        before = os.fstat(self._file).st_size
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError:
            os.ftruncate(self._file, before)
            raise

    def _lock(self) -> None:
        # A process that is just stopping may still hold the lock for a moment.
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() > deadline:
                raise StateUnusable(f"another simulated EC2 uses the folder {self._path.parent}")
            time.sleep(0.05)
