"""Wait for a condition, not for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

LIMIT = 60.0
"""Seconds that only a hang reaches, however busy the machine is."""

Found = TypeVar("Found")


def until(holds: Callable[[], Found], seconds: float = LIMIT) -> Found:
    """Return the first true result of `holds`; fail if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"still not so after {seconds:.0f} s"
        time.sleep(0.01)
    return found
