"""Points at which a test lets the process die: around every COMMIT and every call to others.

`Database.write` and boto3's own events reach them, so a new step has its points without a word
about them at the step; a call to somebody else than AWS stands in `around`. In normal use `reached`
is None, which each transaction asks twice, and clients of AWS are not watched at all.
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
"""The environment variable that switches them on: a file that `armed` in it is read from at each
point. Not a setting: nobody but a test wants it."""

reached: Callable[[str], None] | None = None
"""Called with the name of each point as it is reached; a test may set it, and may raise."""


def name_of(work: Callable[..., Any]) -> str:
    """Return the name of a transaction, such as `failover.signals.record`.

    Its two points are named `failover.signals.record:before-commit` and `...:after-commit`.
    """
    name = f"{work.__module__}.{work.__qualname__}"
    return name.removeprefix("sef.").replace(".<locals>", "")


def instrument(client: T) -> T:
    """A client of boto3 whose calls are failpoints, as `RunInstances:before-call`, if they are on.

    After a call: EC2's answer, be it a refusal, is there and nobody has looked at it yet.
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
    """The points of a call that boto3 does not make, such as `Webhook:before-call`.

    After a call: it has been answered, or has failed, and nobody has looked at that yet.
    """
    if reached is not None:
        reached(f"{name}:before-call")
    try:
        yield
    finally:
        if reached is not None:
            reached(f"{name}:after-call")


def enable_from_env() -> None:
    """Switch them on for this process if the environment says so; once, at its start."""
    global reached
    file = os.environ.get(VARIABLE)
    if file:
        reached = _Plan(Path(file)).reach


class _Plan:
    """What is to happen where: a file, so that a running process can be told.

    It has one line, `name occurrence`: at that occurrence, counted since the file was changed,
    the whole process group gets SIGKILL. Every point that is reached is appended to a second
    file, `.reached`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._trace = file.with_suffix(".reached")
        self._armed = ""
        self._seen = Counter[str]()
        self._lock = Lock()

    def reach(self, name: str) -> None:
        with self._lock:
            armed = self._file.read_text()
            if armed != self._armed:
                self._armed = armed
                self._seen.clear()
            self._seen[name] += 1
            with self._trace.open("a") as trace:
                trace.write(f"{name}\n")
            if armed.split() == [name, str(self._seen[name])]:
                os.killpg(0, signal.SIGKILL)
