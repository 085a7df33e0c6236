"""Group commit: run one call for all items that threads submit at about the same time.

The first thread runs its call immediately. Threads that submit during that call queue up. When it
finishes, the longest-waiting thread runs a single call for the whole queue. No extra thread has to
be started, watched or drained. A database transaction is such a call, and so is a DescribeInstances
call.
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sef.errors import Overloaded, Unavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

AT_ONCE = 1000
"""Default maximum number of items in one call."""


def _locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class _Entry(Generic[Item, Answer]):
    """An item, the state of the thread that submitted it, and the answer."""

    item: Item
    wake_up: threading.Lock = field(default_factory=_locked)
    """Released when the thread has to continue: its call is over, or it has to run the next."""
    is_queued: bool = True
    is_caller: bool = False
    """True if the thread of this entry runs the next call, or is running it."""
    group: "list[_Entry[Item, Answer]]" = field(default_factory=list)
    """The entries of the call that the thread runs, including its own."""
    answers: tuple[Answer, ...] = ()
    """The answer as the only element; empty if the thread has to call alone."""
    unavailable: Unavailable | None = None


class Batcher(Generic[Item, Answer]):
    """Runs calls for several items, each submitted by a thread that waits for its answer."""

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
            call: returns an answer for each item. If it raises, it must not have had any effect:
                each item may be given to it again, alone.
            limit: maximum number of items that wait.
            at_once: maximum number of items in one call.
            patience: time in seconds after which a waiting thread calls alone, because the running
                call may hang. None: the thread waits until the running call is over.
        """
        self._call = call
        self._limit = limit
        self._at_once = at_once
        self._patience = -1 if patience is None else patience
        self._reset()
        _batchers.add(self)  # type: ignore[arg-type]

    def submit(self, item: Item) -> Answer:
        """Run the call for an item, alone or in a group, and return the answer of the item.

        If the call of a group fails, each thread of the group calls alone for its item, so that
        only the bad items fail, each with an error of its own.

        Raises:
            Overloaded: the maximum number of items wait already.
            Unavailable: the database is away, for the whole group.
        """
        if self._calling_thread == threading.get_ident():
            # A handler of a signal or of the log submits within the call. If it queued up, the
            # thread would wait for itself.
            return self._call_alone(item)
        entry: _Entry[Item, Answer] = _Entry(item)
        try:
            self._enqueue(entry)
            if not entry.is_caller and not entry.wake_up.acquire(timeout=self._patience):
                if self._leave_queue(entry):
                    return self._call_alone(item)
                entry.wake_up.acquire()
            if entry.is_caller:
                self._call_for_group(entry)
        finally:
            self._release(entry)
        if entry.unavailable is not None:
            raise Unavailable(entry.unavailable.message) from entry.unavailable
        return entry.answers[0] if entry.answers else self._call_alone(item)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Entry[Item, Answer]] = deque()
        self._has_caller = False
        self._calling_thread: int | None = None

    def _call_alone(self, item: Item) -> Answer:
        return self._call([item])[0]

    def _enqueue(self, entry: _Entry[Item, Answer]) -> None:
        with self._lock:
            if len(self._waiting) >= self._limit:
                raise Overloaded
            self._waiting.append(entry)
            if not self._has_caller:
                self._has_caller = entry.is_caller = True

    def _leave_queue(self, entry: _Entry[Item, Answer]) -> bool:
        """Leave the queue; return False if a call has taken the entry, or it is the caller."""
        with self._lock:
            if not entry.is_queued or entry.is_caller:
                return False
            self._waiting.remove(entry)
            entry.is_queued = False
            return True

    def _call_for_group(self, caller: _Entry[Item, Answer]) -> None:
        try:
            with self._lock:
                self._calling_thread = threading.get_ident()
                while self._waiting and len(caller.group) < self._at_once:
                    caller.group.append(self._waiting[0])
                    self._waiting.popleft().is_queued = False
            answers = self._call([entry.item for entry in caller.group])
            for entry, answer in zip(caller.group, answers, strict=True):
                entry.answers = (answer,)
        except Unavailable as error:
            for entry in caller.group:
                entry.unavailable = error
        except Exception:
            if len(caller.group) == 1:
                raise
        finally:
            # Also when KeyboardInterrupt or SystemExit ends this thread: the other threads of the
            # group then find no answer and call alone.
            self._release(caller)

    def _release(self, entry: _Entry[Item, Answer]) -> None:
        """Make sure that no other thread waits for this entry's thread.

        A second run has no effect.
        """
        with self._lock:
            if entry.is_queued and entry in self._waiting:
                self._waiting.remove(entry)
            if entry.is_caller:
                entry.is_caller = False
                self._calling_thread = None
                self._has_caller = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].is_caller = True
                    self._waiting[0].wake_up.release()
        while entry.group:
            if entry.group[-1].wake_up.locked():
                entry.group[-1].wake_up.release()
            entry.group.pop()


class Leads:
    """The work of which one thread takes the lead for all others, by a key.

    Args:
        seconds: time after which another thread may take the lead: a call of the first one hangs.
    """

    def __init__(self, seconds: float = 4.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._since: dict[object, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lead(self, key: object) -> Iterator[bool]:
        """Yield True if this thread leads; False if another thread does."""
        began = self._clock()
        with self._lock:
            since = self._since.get(key)
            is_leader = since is None or began - since >= self._seconds
            if is_leader:
                self._since[key] = began
        try:
            yield is_leader
        finally:
            with self._lock:
                if is_leader and self._since.get(key) == began:
                    del self._since[key]


_batchers: weakref.WeakSet[Batcher[object, object]] = weakref.WeakSet()


def _reset_in_child() -> None:
    # The waiting and calling threads exist in the parent only.
    for batcher in _batchers:
        batcher._reset()


os.register_at_fork(after_in_child=_reset_in_child)
