"""Wait until a condition holds."""

import time
from collections.abc import Callable
from typing import TypeVar

LIMIT = 60.0
"""Time limit in seconds; only a hang reaches it, also on a busy machine."""

Result = TypeVar("Result")


def until(holds: Callable[[], Result], seconds: float = LIMIT) -> Result:
    """Return the first true result of `holds`; fail if there is none within the time limit."""
    deadline = time.monotonic() + seconds
    while not (result := holds()):
        assert time.monotonic() < deadline, f"the condition is still false after {seconds:.0f} s"
        time.sleep(0.01)
    return result
