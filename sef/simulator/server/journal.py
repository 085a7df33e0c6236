"""The journal of the simulated EC2: all that changed it, in order, so that it can restart."""

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
    """The folder cannot be used; the message is one line that says why and what to do."""


class Journal:
    """A file of JSON lines, written before what they say is done.

    A record is in the file (with the operating system, not necessarily on the platter) when
    `append` returns: it survives a killed process, not a power failure. The file is locked for
    the life of the process, so that two never write to one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock()

    def read(self) -> Iterator[Record]:
        """Every whole record. A last line that a crash cut short never took effect: it goes."""
        with self._path.open("rb") as lines:
            whole = 0
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
                whole += len(line)
        os.ftruncate(self._file, whole)

    def append(self, record: Record) -> None:
        """Write one record; on an error (a full disk) nothing of it stays.

        Raises:
            OSError: the record is not written, so what it says must not be done.
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
        # One that is just being stopped may still hold it for a moment.
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() > deadline:
                raise StateUnusable(f"another simulated EC2 is using {self._path.parent}")
            time.sleep(0.05)
