"""Calls that are shared: who comes alone waits for nobody, who comes meanwhile shares a call."""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from sef.batching import Batcher
from sef.errors import Overloaded, Unavailable
from tests.waiting import LIMIT, until


class Writer:
    """A write that answers with its items, and whose first call lasts until it is let go."""

    def __init__(self, fails: Callable[[Sequence[Any]], None] = lambda items: None) -> None:
        self.calls: list[list[Any]] = []
        self.threads: list[int] = []
        self.is_writing = threading.Event()
        self.go_on = threading.Event()
        self._fails = fails

    def __call__(self, items: Sequence[Any]) -> Sequence[Any]:
        self.calls.append(list(items))
        self.threads.append(threading.get_ident())
        self.is_writing.set()
        assert self.go_on.wait(LIMIT)
        self._fails(items)
        return [f"<{item}>" for item in items]


def waiting(group: Batcher[Any, Any], count: int) -> None:
    until(lambda: len(group._waiting) == count)


def line_up(
    group: Batcher[Any, Any], writer: Writer, threads: ThreadPoolExecutor, items: Sequence[Any]
) -> list[Future[Any]]:
    """Submit items, the first of which is being written while the others have come, in order."""
    futures = [threads.submit(group.submit, items[0])]
    assert writer.is_writing.wait(LIMIT)
    for number, item in enumerate(items[1:], start=1):
        futures.append(threads.submit(group.submit, item))
        waiting(group, number)
    return futures


def outcome(future: Future[Any]) -> Any:
    error = future.exception(LIMIT)
    return future.result() if error is None else error


@pytest.fixture
def threads() -> Any:
    with ThreadPoolExecutor(40) as pool:
        yield pool


def test_who_comes_alone_is_written_at_once_in_its_own_thread() -> None:
    writer = Writer()
    writer.go_on.set()
    group = Batcher(writer, limit=10)
    assert [group.submit("a"), group.submit("b")] == ["<a>", "<b>"]
    assert writer.calls == [["a"], ["b"]]
    assert set(writer.threads) == {threading.get_ident()}


def test_those_who_come_meanwhile_share_the_next_write(threads: ThreadPoolExecutor) -> None:
    writer = Writer()
    group = Batcher(writer, limit=10)
    futures = line_up(group, writer, threads, "abcde")
    writer.go_on.set()
    assert [outcome(future) for future in futures] == ["<a>", "<b>", "<c>", "<d>", "<e>"]
    assert writer.calls == [["a"], ["b", "c", "d", "e"]]


def test_one_that_cannot_be_written_fails_alone(threads: ThreadPoolExecutor) -> None:
    def fails(items: Sequence[Any]) -> None:
        if "bad" in items:
            raise ValueError(f"cannot write {items}")

    writer = Writer(fails)
    group = Batcher(writer, limit=10)
    futures = line_up(group, writer, threads, ["a", "b", "bad", "c"])
    writer.go_on.set()
    told = [outcome(future) for future in futures]
    assert [str(one) for one in told] == ["<a>", "<b>", "cannot write ['bad']", "<c>"]
    assert isinstance(told[2], ValueError)
    assert sorted(writer.calls[2:]) == [["b"], ["bad"], ["c"]]


def test_one_that_comes_alone_and_cannot_be_written_is_tried_once() -> None:
    def fails(items: Sequence[Any]) -> None:
        raise ValueError("bad")

    writer = Writer(fails)
    writer.go_on.set()
    group = Batcher(writer, limit=10)
    with pytest.raises(ValueError, match="bad"):
        group.submit("bad")
    assert writer.calls == [["bad"]]


def test_a_database_that_is_away_is_told_to_all_and_asked_once(
    threads: ThreadPoolExecutor,
) -> None:
    def fails(items: Sequence[Any]) -> None:
        if len(items) > 1:
            raise Unavailable("away")

    writer = Writer(fails)
    group = Batcher(writer, limit=10)
    futures = line_up(group, writer, threads, "abcd")
    writer.go_on.set()
    told = [outcome(future) for future in futures]
    assert told[0] == "<a>"
    assert [(type(error), str(error)) for error in told[1:]] == [(Unavailable, "away")] * 3
    assert len({id(error) for error in told[1:]}) == 3  # each has its own, with its own traceback
    assert len(writer.calls) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nobody_waits_for_a_writer_that_is_ended(
    threads: ThreadPoolExecutor, error: type[BaseException]
) -> None:
    def fails(items: Sequence[Any]) -> None:
        if len(items) == 3:
            raise error

    writer = Writer(fails)
    group = Batcher(writer, limit=10)
    futures = line_up(group, writer, threads, "abcd")
    writer.go_on.set()
    told = [outcome(future) for future in futures]
    assert told[0] == "<a>"
    assert [type(one) for one in told[1:]].count(error) == 1
    assert set(told[2:]) == {"<c>", "<d>"}
    assert group.submit("e") == "<e>"


def test_one_that_is_ended_while_it_waits_holds_nobody_up(threads: ThreadPoolExecutor) -> None:
    writer = Writer()
    group = Batcher(writer, limit=10)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            group.submit("b")
        except BaseException as error:
            ended.append(error)

    first = threads.submit(group.submit, "a")
    assert writer.is_writing.wait(LIMIT)
    second = threading.Thread(target=wait)
    second.start()
    waiting(group, 1)
    third = threads.submit(group.submit, "c")
    waiting(group, 2)
    # It arrives when the thread runs again, which is when it is the one to write.
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(second.ident or 0), ctypes.py_object(SystemExit)
    )
    writer.go_on.set()
    second.join(LIMIT)
    assert (outcome(first), outcome(third)) == ("<a>", "<c>")
    assert [type(error) for error in ended] == [SystemExit]
    assert group.submit("d") == "<d>"


def test_when_too_many_wait_the_next_is_refused_at_once(threads: ThreadPoolExecutor) -> None:
    writer = Writer()
    group = Batcher(writer, limit=3)
    futures = line_up(group, writer, threads, "abcd")
    with pytest.raises(Overloaded) as raised:
        group.submit("e")
    assert (raised.value.status, raised.value.reason) == (503, "overloaded")
    writer.go_on.set()
    assert [outcome(future) for future in futures] == ["<a>", "<b>", "<c>", "<d>"]
    assert group.submit("f") == "<f>"


def test_a_handler_that_submits_within_the_write_does_not_wait_for_itself() -> None:
    inner: list[str] = []

    def write(items: Sequence[str]) -> Sequence[str]:
        if items == ["outer"]:
            inner.append(group.submit("inner"))
        return items

    group = Batcher(write, limit=3)
    assert (group.submit("outer"), inner) == ("outer", ["inner"])
    assert group.submit("after") == "after"


def test_a_forked_child_waits_for_nobody_of_its_parent(threads: ThreadPoolExecutor) -> None:
    writer = Writer()
    group = Batcher(writer, limit=10)
    futures = line_up(group, writer, threads, "ab")
    child = os.fork()
    if child == 0:
        writer.go_on.set()
        os._exit(0 if group.submit("c") == "<c>" else 1)
    writer.go_on.set()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert [outcome(future) for future in futures] == ["<a>", "<b>"]


def test_whatever_fails_everybody_gets_an_answer_of_its_own(threads: ThreadPoolExecutor) -> None:
    dice, lock = Random(7), threading.Lock()
    written: list[int] = []

    def write(items: Sequence[int]) -> Sequence[int]:
        with lock:
            chance = dice.random()
        if any(item % 50 == 7 for item in items):
            raise ValueError
        if chance < 0.05:
            raise Unavailable
        if chance < 0.1:
            raise KeyboardInterrupt
        written.extend(items)
        return [item * 10 for item in items]

    group = Batcher(write, limit=30)

    def submit(number: int) -> Any:
        try:
            return group.submit(number)
        except BaseException as error:
            return type(error)

    told = list(threads.map(submit, range(3000)))
    for number, answer in enumerate(told):
        if number % 50 == 7:
            assert answer in (ValueError, Unavailable, KeyboardInterrupt, Overloaded)
        elif answer == number * 10:
            assert number in written
        else:
            assert answer in (Unavailable, KeyboardInterrupt, Overloaded)
    assert not group._waiting
    assert not group._has_caller


def test_who_waits_behind_a_call_that_hangs_calls_alone(threads: ThreadPoolExecutor) -> None:
    hangs, is_calling = threading.Event(), threading.Event()

    def call(items: Sequence[str]) -> Sequence[str]:
        if items == ["a"]:
            is_calling.set()
            assert hangs.wait(LIMIT)
        return items

    group = Batcher(call, limit=3, patience=0.01)
    first = threads.submit(group.submit, "a")
    assert is_calling.wait(LIMIT)
    assert group.submit("b") == "b"
    assert not first.done()
    hangs.set()
    assert outcome(first) == "a"
    assert group.submit("c") == "c"


def test_nobody_for_whom_a_call_has_begun_calls_once_more(threads: ThreadPoolExecutor) -> None:
    calls: list[str] = []
    first, others = threading.Event(), threading.Event()
    is_calling = threading.Semaphore(0)

    def call(items: Sequence[str]) -> Sequence[str]:
        calls.extend(items)
        is_calling.release()
        assert (first if "a" in items else others).wait(LIMIT)
        return items

    patience = 0.3
    group = Batcher(call, limit=3, patience=patience)
    futures = [threads.submit(group.submit, "a")]
    assert is_calling.acquire(timeout=LIMIT)
    futures += [threads.submit(group.submit, item) for item in "bc"]
    first.set()
    assert is_calling.acquire(timeout=LIMIT)
    time.sleep(2 * patience)  # whoever would give up has had the time to
    others.set()
    assert [outcome(future) for future in futures] == ["a", "b", "c"]
    assert sorted(calls) == ["a", "b", "c"]


def test_no_call_is_for_more_than_it_may_be(threads: ThreadPoolExecutor) -> None:
    writer = Writer()
    group = Batcher(writer, limit=10, at_once=2)
    futures = line_up(group, writer, threads, "abcdef")
    writer.go_on.set()
    assert [outcome(future) for future in futures] == [f"<{item}>" for item in "abcdef"]
    assert writer.calls == [["a"], ["b", "c"], ["d", "e"], ["f"]]
