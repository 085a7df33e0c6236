"""Bound the time of a call that a caller can do without."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T], otherwise: T) -> T:
    """Return the result of a call, or `otherwise` if it takes longer.

    A call that takes longer goes on in its thread, and its result is dropped. An exception of the
    call is raised here.
    """
    done: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            done.put((call(), None))
        except BaseException as error:
            done.put((None, error))

    Thread(target=run, name="sef-bounded", daemon=True).start()
    try:
        result, error = done.get(timeout=seconds)
    except Empty:
        return otherwise
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
