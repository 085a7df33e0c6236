"""Failpoints: places at which a test can kill the process, around every COMMIT and remote call.

`Database.write` and boto3's events reach them, so a new step has its failpoints without code of its
own. A remote call that boto3 does not make is wrapped in `failpoint`. In normal use `reached` is
None: each transaction checks that twice, and AWS clients are not instrumented at all.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")

VARIABLE = "SEF_FAILPOINTS"
"""Environment variable with the path of the plan file, which switches the failpoints on.

It is not a setting, because only tests use it.
"""

reached: Callable[[str], None] | None = None
"""Function that is called with the name of each failpoint; tests set it, and it may raise."""


def name_of(work: Callable[..., Any]) -> str:
    """Return the name of a transaction, such as `failover.signals.record`.

    Its two failpoints are `failover.signals.record:before-commit` and `...:after-commit`.
    """
    name = f"{work.__module__}.{work.__qualname__}"
    return name.removeprefix("sef.").replace(".<locals>", "")


def instrument(client: T) -> T:
    """Return the boto3 client with failpoints, such as `RunInstances:before-call`, if they are on.

    At `after-call`, AWS has answered, with a result or an error, and SEF has not read the answer.
    """
    if reached is not None:
        events = client.meta.events  # type: ignore[attr-defined]
        events.register("before-call", _before_call, unique_id="sef-before-call")
        events.register("after-call", _after_call, unique_id="sef-after-call")
    return client


def _before_call(model: Any, **_: Any) -> None:
    if reached is not None:
        reached(f"{model.name}:before-call")


def _after_call(model: Any, **_: Any) -> None:
    if reached is not None:
        reached(f"{model.name}:after-call")


@contextmanager
def failpoint(name: str) -> Iterator[None]:
    """Reach the failpoints of a call that boto3 does not make, such as `Webhook:before-call`.

    At `after-call`, the call was answered or has failed, and SEF has not read the result.
    """
    if reached is not None:
        reached(f"{name}:before-call")
    try:
        yield
    finally:
        if reached is not None:
            reached(f"{name}:after-call")


def enable_from_env() -> None:
    """Switch the failpoints on if `VARIABLE` is set; called once, at the start of the process."""
    global reached
    file = os.environ.get(VARIABLE)
    if file:
        reached = _Plan(Path(file)).reach


class _Plan:
    """A plan in a file, which a test can change while the process runs.

    The file has one line, `name occurrence`. At that occurrence, counted since the last change of
    the file, the whole process group is killed with SIGKILL. A second file, `.reached`, lists every
    failpoint that was reached.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._trace = file.with_suffix(".reached")
        self._armed = ""
        self._occurrences = Counter[str]()
        self._lock = Lock()

    def reach(self, name: str) -> None:
        with self._lock:
            armed = self._file.read_text()
            if armed != self._armed:
                self._armed = armed
                self._occurrences.clear()
            self._occurrences[name] += 1
            with self._trace.open("a") as trace:
                trace.write(f"{name}\n")
            if armed.split() == [name, str(self._occurrences[name])]:
                os.killpg(0, signal.SIGKILL)
