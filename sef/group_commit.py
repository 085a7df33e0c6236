"""Group commit: what arrives while a transaction is being written shares the next one.

Who comes first writes at once, and waits for nobody. Who comes meanwhile waits, and when that
write is done the one that has waited longest writes for all who wait. Everybody waits in a thread
of its own, so there is no writer to start, to watch, or to drain at a stop.
"""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sef.errors import Overloaded, Unavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

AT_ONCE = 1000
"""How many are written in one transaction."""

_all: "weakref.WeakSet[GroupCommit[object, object]]" = weakref.WeakSet()


def _closed() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class _Place(Generic[Item, Answer]):
    """One who waits, and what has become of it."""

    item: Item
    bell: threading.Lock = field(default_factory=_closed)
    """Released when it has been written for, or is to write."""
    waits: bool = True
    writes: bool = False
    group: "list[_Place[Item, Answer]]" = field(default_factory=list)
    """Those for whom it writes, itself among them."""
    answers: tuple[Answer, ...] = ()
    """The one answer, or none if it has to write for itself."""
    unavailable: Unavailable | None = None


class GroupCommit(Generic[Item, Answer]):
    """Writes items together, each on behalf of a thread that waits for its answer."""

    def __init__(self, write: Callable[[Sequence[Item]], Sequence[Answer]], *, limit: int) -> None:
        """Write by `write`, which answers each of its items, and has written none if it raises;
        items may be given to it again, alone. Up to `limit` items wait."""
        self._write = write
        self._limit = limit
        self._start_anew()
        _all.add(self)  # type: ignore[arg-type]

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Place[Item, Answer]] = deque()
        self._has_writer = False
        self._writing_thread: int | None = None

    def submit(self, item: Item) -> Answer:
        """Have an item written, and return its answer once it is committed.

        A group whose write fails is divided: each is written alone, by its own thread, so that
        only those fail that cannot be written, each with an error of its own.

        Raises:
            Overloaded: too many wait already.
            Unavailable: the database is, for the whole group.
        """
        if self._writing_thread == threading.get_ident():
            # Called by a handler (of a signal, of the log) within the write: it waits for itself.
            return self._alone(item)
        place: _Place[Item, Answer] = _Place(item)
        try:
            self._line_up(place)
            if not place.writes:
                place.bell.acquire()
            if place.writes:
                self._write_for_all(place)
        finally:
            self._leave(place)
        if place.unavailable is not None:
            raise Unavailable(place.unavailable.message) from place.unavailable
        return place.answers[0] if place.answers else self._alone(item)

    def _alone(self, item: Item) -> Answer:
        return self._write([item])[0]

    def _line_up(self, place: _Place[Item, Answer]) -> None:
        with self._lock:
            if len(self._waiting) >= self._limit:
                raise Overloaded
            self._waiting.append(place)
            if not self._has_writer:
                self._has_writer = place.writes = True

    def _write_for_all(self, own: _Place[Item, Answer]) -> None:
        try:
            with self._lock:
                self._writing_thread = threading.get_ident()
                while self._waiting and len(own.group) < AT_ONCE:
                    own.group.append(self._waiting[0])
                    self._waiting.popleft().waits = False
            answers = self._write([place.item for place in own.group])
            for place, answer in zip(own.group, answers, strict=True):
                place.answers = (answer,)
        except Unavailable as error:
            for place in own.group:
                place.unavailable = error
        except Exception:
            if len(own.group) == 1:
                raise
        finally:
            # Also when this thread is being ended: what nobody answered is then written alone.
            self._leave(own)

    def _leave(self, place: _Place[Item, Answer]) -> None:
        """Make sure that nobody waits for this thread any more; doing it twice does no harm."""
        with self._lock:
            if place.waits and place in self._waiting:
                self._waiting.remove(place)
            if place.writes:
                place.writes = False
                self._writing_thread = None
                self._has_writer = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].writes = True
                    self._waiting[0].bell.release()
        while place.group:
            if place.group[-1].bell.locked():
                place.group[-1].bell.release()
            place.group.pop()


def _forget_in_child() -> None:
    # The threads that wait and write are the parent's.
    for one in _all:
        one._start_anew()


os.register_at_fork(after_in_child=_forget_in_child)
