"""How long a call to EC2 took that changes something, for the history."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from sef.cloud.errors import CloudError

T = TypeVar("T")
Calls = list[dict[str, Any]]


def timed(calls: Calls, operation: str, instance_id: str, call: Callable[[], T]) -> T:
    """Make the call; add to `calls` what it was, how many milliseconds it took, and its error.

    Raises:
        CloudError: with the same in its `call`.
    """
    began = time.monotonic()
    told: dict[str, Any] = {"operation": operation, "instance_id": instance_id, "error": None}
    calls.append(told)
    try:
        return call()
    except CloudError as error:
        error.call = told
        told["error"] = error.code
        raise
    finally:
        told["ms"] = round((time.monotonic() - began) * 1000)
