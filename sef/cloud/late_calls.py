"""Keep a call from leaving this process once it must not be made any more.

Some calls of EC2 take an address from any holder, so a call that a frozen worker makes late must
not be sent. The check runs in boto3's event `before-send`, after the call was signed and as the
last thing before its bytes leave, and again before boto3 repeats the call.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

_check: ContextVar[tuple[Any, Callable[[], None]] | None] = ContextVar("check", default=None)


@contextmanager
def sent_only_if(client: Any, check: Callable[[], None]) -> Iterator[None]:
    """Run a check before this thread's calls of a client are sent.

    The exception of the check reaches the caller.
    """
    token = _check.set((client.meta.events, check))
    try:
        yield
    finally:
        _check.reset(token)


def guard(client: Any) -> None:
    """Let a client of boto3 run the check of `sent_only_if`."""
    events = client.meta.events
    events.register("before-send", partial(_before_send, events))


def _before_send(events: Any, **_: Any) -> None:
    guarded = _check.get()
    if guarded is not None and guarded[0] is events:
        guarded[1]()
