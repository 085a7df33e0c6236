"""Calls that are shared: what arrives while one is being made goes into the next one.

Who comes first calls at once, and waits for nobody. Who comes meanwhile waits, and when that call
is over the one that has waited longest calls for all who wait. Everybody waits in a thread of its
own, so there is no other thread to start, to watch, or to drain at a stop. A transaction is such a
call (group commit), and so is a look at EC2.
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
"""How many one call is for at most, if nothing else is said."""

_all: "weakref.WeakSet[Batcher[object, object]]" = weakref.WeakSet()


def _closed() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class _Waiter(Generic[Item, Answer]):
    """One who waits, and what has become of it."""

    item: Item
    bell: threading.Lock = field(default_factory=_closed)
    """Released when the call for it is over, or it is to call."""
    waits: bool = True
    calls: bool = False
    group: "list[_Waiter[Item, Answer]]" = field(default_factory=list)
    """Those for whom it calls, itself among them."""
    answers: tuple[Answer, ...] = ()
    """The one answer, or none if it has to call for itself."""
    unavailable: Unavailable | None = None


class Batcher(Generic[Item, Answer]):
    """Calls for several items together, each on behalf of a thread that waits for its answer."""

    def __init__(
        self,
        call: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        limit: int,
        at_once: int = AT_ONCE,
        patience: float | None = None,
    ) -> None:
        """Prepare a call that several threads share.

        Args:
            call: answers each of its items, and has done nothing if it raises; items may be given
                to it again, alone.
            limit: maximum of items that wait.
            at_once: maximum of items in one call.
            patience: seconds after which a waiting thread calls alone, since the call before may
                hang. None: it waits for as long as that call takes.
        """
        self._call = call
        self._limit = limit
        self._at_once = at_once
        self._patience = -1 if patience is None else patience
        self._start_anew()
        _all.add(self)  # type: ignore[arg-type]

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Waiter[Item, Answer]] = deque()
        self._has_caller = False
        self._calling_thread: int | None = None

    def submit(self, item: Item) -> Answer:
        """Have the call made for an item, alone or with others, and return its answer.

        A group whose call fails is divided: it is made for each alone, by its own thread, so that
        only those fail that cannot be served, each with an error of its own.

        Raises:
            Overloaded: too many wait already.
            Unavailable: the database is, for the whole group.
        """
        if self._calling_thread == threading.get_ident():
            # Called by a handler (of a signal, of the log) within the call: it waits for itself.
            return self._alone(item)
        place: _Waiter[Item, Answer] = _Waiter(item)
        try:
            self._line_up(place)
            if not place.calls and not place.bell.acquire(timeout=self._patience):
                if self._gives_up(place):
                    return self._alone(item)
                place.bell.acquire()
            if place.calls:
                self._call_for_all(place)
        finally:
            self._leave(place)
        if place.unavailable is not None:
            raise Unavailable(place.unavailable.message) from place.unavailable
        return place.answers[0] if place.answers else self._alone(item)

    def _gives_up(self, place: _Waiter[Item, Answer]) -> bool:
        """Stop waiting, unless the turn has come meanwhile."""
        with self._lock:
            if not place.waits or place.calls:
                return False
            self._waiting.remove(place)
            place.waits = False
            return True

    def _alone(self, item: Item) -> Answer:
        return self._call([item])[0]

    def _line_up(self, place: _Waiter[Item, Answer]) -> None:
        with self._lock:
            if len(self._waiting) >= self._limit:
                raise Overloaded
            self._waiting.append(place)
            if not self._has_caller:
                self._has_caller = place.calls = True

    def _call_for_all(self, own: _Waiter[Item, Answer]) -> None:
        try:
            with self._lock:
                self._calling_thread = threading.get_ident()
                while self._waiting and len(own.group) < self._at_once:
                    own.group.append(self._waiting[0])
                    self._waiting.popleft().waits = False
            answers = self._call([place.item for place in own.group])
            for place, answer in zip(own.group, answers, strict=True):
                place.answers = (answer,)
        except Unavailable as error:
            for place in own.group:
                place.unavailable = error
        except Exception:
            if len(own.group) == 1:
                raise
        finally:
            # Also when this thread is being ended: what nobody answered is then called for alone.
            self._leave(own)

    def _leave(self, place: _Waiter[Item, Answer]) -> None:
        """Make sure that nobody waits for this thread any more; doing it twice does no harm."""
        with self._lock:
            if place.waits and place in self._waiting:
                self._waiting.remove(place)
            if place.calls:
                place.calls = False
                self._calling_thread = None
                self._has_caller = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].calls = True
                    self._waiting[0].bell.release()
        while place.group:
            if place.group[-1].bell.locked():
                place.group[-1].bell.release()
            place.group.pop()


def _forget_in_child() -> None:
    # The threads that wait and call are the parent's.
    for one in _all:
        one._start_anew()


os.register_at_fork(after_in_child=_forget_in_child)
