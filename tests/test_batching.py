"""Group commit: a lone item is called at once, items submitted during a call share the next one."""

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


class BlockingCall:
    """A call that returns an answer for each item once `may_return` is set."""

    def __init__(self, fails: Callable[[Sequence[Any]], None] = lambda items: None) -> None:
        self.calls: list[list[Any]] = []
        self.threads: list[int] = []
        self.is_running = threading.Event()
        self.may_return = threading.Event()
        self._fails = fails

    def __call__(self, items: Sequence[Any]) -> Sequence[Any]:
        self.calls.append(list(items))
        self.threads.append(threading.get_ident())
        self.is_running.set()
        assert self.may_return.wait(LIMIT)
        self._fails(items)
        return [f"<{item}>" for item in items]


def wait_until_queued(batcher: Batcher[Any, Any], count: int) -> None:
    until(lambda: len(batcher._waiting) == count)


def submit_in_order(
    batcher: Batcher[Any, Any],
    call: BlockingCall,
    threads: ThreadPoolExecutor,
    items: Sequence[Any],
) -> list[Future[Any]]:
    """Submit the first item, wait until its call runs, and queue the other items in order."""
    futures = [threads.submit(batcher.submit, items[0])]
    assert call.is_running.wait(LIMIT)
    for number, item in enumerate(items[1:], start=1):
        futures.append(threads.submit(batcher.submit, item))
        wait_until_queued(batcher, number)
    return futures


def outcome(future: Future[Any]) -> Any:
    error = future.exception(LIMIT)
    return future.result() if error is None else error


@pytest.fixture
def threads() -> Any:
    with ThreadPoolExecutor(40) as pool:
        yield pool


def test_a_lone_item_is_called_at_once_in_the_thread_that_submits_it() -> None:
    call = BlockingCall()
    call.may_return.set()
    batcher = Batcher(call, limit=10)
    assert [batcher.submit("a"), batcher.submit("b")] == ["<a>", "<b>"]
    assert call.calls == [["a"], ["b"]]
    assert set(call.threads) == {threading.get_ident()}


def test_items_submitted_during_a_call_share_the_next_call(threads: ThreadPoolExecutor) -> None:
    call = BlockingCall()
    batcher = Batcher(call, limit=10)
    futures = submit_in_order(batcher, call, threads, "abcde")
    call.may_return.set()
    assert [outcome(future) for future in futures] == ["<a>", "<b>", "<c>", "<d>", "<e>"]
    assert call.calls == [["a"], ["b", "c", "d", "e"]]


def test_a_bad_item_of_a_group_fails_alone(threads: ThreadPoolExecutor) -> None:
    def fails(items: Sequence[Any]) -> None:
        if "bad" in items:
            raise ValueError(f"bad items {items}")

    call = BlockingCall(fails)
    batcher = Batcher(call, limit=10)
    futures = submit_in_order(batcher, call, threads, ["a", "b", "bad", "c"])
    call.may_return.set()
    outcomes = [outcome(future) for future in futures]
    assert [str(each) for each in outcomes] == ["<a>", "<b>", "bad items ['bad']", "<c>"]
    assert isinstance(outcomes[2], ValueError)
    assert sorted(call.calls[2:]) == [["b"], ["bad"], ["c"]]


def test_a_bad_lone_item_is_tried_once() -> None:
    def fails(items: Sequence[Any]) -> None:
        raise ValueError("bad")

    call = BlockingCall(fails)
    call.may_return.set()
    batcher = Batcher(call, limit=10)
    with pytest.raises(ValueError, match="bad"):
        batcher.submit("bad")
    assert call.calls == [["bad"]]


def test_an_unavailable_database_fails_the_whole_group_after_one_call(
    threads: ThreadPoolExecutor,
) -> None:
    def fails(items: Sequence[Any]) -> None:
        if len(items) > 1:
            raise Unavailable("away")

    call = BlockingCall(fails)
    batcher = Batcher(call, limit=10)
    futures = submit_in_order(batcher, call, threads, "abcd")
    call.may_return.set()
    outcomes = [outcome(future) for future in futures]
    assert outcomes[0] == "<a>"
    assert [(type(error), str(error)) for error in outcomes[1:]] == [(Unavailable, "away")] * 3
    # Each thread gets an error object of its own, with its own traceback.
    assert len({id(error) for error in outcomes[1:]}) == 3
    assert len(call.calls) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_no_thread_waits_for_a_caller_that_is_terminated(
    threads: ThreadPoolExecutor, error: type[BaseException]
) -> None:
    def fails(items: Sequence[Any]) -> None:
        if len(items) == 3:
            raise error

    call = BlockingCall(fails)
    batcher = Batcher(call, limit=10)
    futures = submit_in_order(batcher, call, threads, "abcd")
    call.may_return.set()
    outcomes = [outcome(future) for future in futures]
    assert outcomes[0] == "<a>"
    assert [type(each) for each in outcomes[1:]].count(error) == 1
    assert set(outcomes[2:]) == {"<c>", "<d>"}
    assert batcher.submit("e") == "<e>"


def test_a_thread_terminated_while_it_waits_does_not_block_the_queue(
    threads: ThreadPoolExecutor,
) -> None:
    call = BlockingCall()
    batcher = Batcher(call, limit=10)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            batcher.submit("b")
        except BaseException as error:
            ended.append(error)

    first = threads.submit(batcher.submit, "a")
    assert call.is_running.wait(LIMIT)
    second = threading.Thread(target=wait)
    second.start()
    wait_until_queued(batcher, 1)
    third = threads.submit(batcher.submit, "c")
    wait_until_queued(batcher, 2)
    # Python raises SystemExit when the thread runs again, which is when it is the next caller.
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(second.ident or 0), ctypes.py_object(SystemExit)
    )
    call.may_return.set()
    second.join(LIMIT)
    assert (outcome(first), outcome(third)) == ("<a>", "<c>")
    assert [type(error) for error in ended] == [SystemExit]
    assert batcher.submit("d") == "<d>"


def test_an_item_above_the_limit_is_rejected_at_once(threads: ThreadPoolExecutor) -> None:
    call = BlockingCall()
    batcher = Batcher(call, limit=3)
    futures = submit_in_order(batcher, call, threads, "abcd")
    with pytest.raises(Overloaded) as raised:
        batcher.submit("e")
    assert (raised.value.status, raised.value.reason) == (503, "overloaded")
    call.may_return.set()
    assert [outcome(future) for future in futures] == ["<a>", "<b>", "<c>", "<d>"]
    assert batcher.submit("f") == "<f>"


def test_a_handler_that_submits_within_a_call_does_not_wait_for_itself() -> None:
    inner: list[str] = []

    def call(items: Sequence[str]) -> Sequence[str]:
        if items == ["outer"]:
            inner.append(batcher.submit("inner"))
        return items

    batcher = Batcher(call, limit=3)
    assert (batcher.submit("outer"), inner) == ("outer", ["inner"])
    assert batcher.submit("after") == "after"


def test_a_forked_child_does_not_wait_for_threads_of_its_parent(
    threads: ThreadPoolExecutor,
) -> None:
    call = BlockingCall()
    batcher = Batcher(call, limit=10)
    futures = submit_in_order(batcher, call, threads, "ab")
    child = os.fork()
    if child == 0:
        call.may_return.set()
        os._exit(0 if batcher.submit("c") == "<c>" else 1)
    call.may_return.set()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert [outcome(future) for future in futures] == ["<a>", "<b>"]


def test_every_item_gets_an_answer_or_error_of_its_own_when_calls_fail_at_random(
    threads: ThreadPoolExecutor,
) -> None:
    dice, lock = Random(7), threading.Lock()
    called: list[int] = []

    def call(items: Sequence[int]) -> Sequence[int]:
        with lock:
            chance = dice.random()
        if any(item % 50 == 7 for item in items):
            raise ValueError
        if chance < 0.05:
            raise Unavailable
        if chance < 0.1:
            raise KeyboardInterrupt
        called.extend(items)
        return [item * 10 for item in items]

    batcher = Batcher(call, limit=30)

    def submit(number: int) -> Any:
        try:
            return batcher.submit(number)
        except BaseException as error:
            return type(error)

    outcomes = list(threads.map(submit, range(3000)))
    for number, answer in enumerate(outcomes):
        if number % 50 == 7:
            assert answer in (ValueError, Unavailable, KeyboardInterrupt, Overloaded)
        elif answer == number * 10:
            assert number in called
        else:
            assert answer in (Unavailable, KeyboardInterrupt, Overloaded)
    assert not batcher._waiting
    assert not batcher._has_caller


def test_an_item_behind_a_hanging_call_is_called_alone_after_the_patience(
    threads: ThreadPoolExecutor,
) -> None:
    hangs, is_calling = threading.Event(), threading.Event()

    def call(items: Sequence[str]) -> Sequence[str]:
        if items == ["a"]:
            is_calling.set()
            assert hangs.wait(LIMIT)
        return items

    batcher = Batcher(call, limit=3, patience=0.01)
    first = threads.submit(batcher.submit, "a")
    assert is_calling.wait(LIMIT)
    assert batcher.submit("b") == "b"
    assert not first.done()
    hangs.set()
    assert outcome(first) == "a"
    assert batcher.submit("c") == "c"


def test_an_item_whose_call_has_begun_is_not_called_again_after_the_patience(
    threads: ThreadPoolExecutor,
) -> None:
    calls: list[str] = []
    first, others = threading.Event(), threading.Event()
    is_calling = threading.Semaphore(0)

    def call(items: Sequence[str]) -> Sequence[str]:
        calls.extend(items)
        is_calling.release()
        assert (first if "a" in items else others).wait(LIMIT)
        return items

    patience = 0.3
    batcher = Batcher(call, limit=3, patience=patience)
    futures = [threads.submit(batcher.submit, "a")]
    assert is_calling.acquire(timeout=LIMIT)
    futures += [threads.submit(batcher.submit, item) for item in "bc"]
    first.set()
    assert is_calling.acquire(timeout=LIMIT)
    time.sleep(2 * patience)  # longer than the patience of the waiting threads
    others.set()
    assert [outcome(future) for future in futures] == ["a", "b", "c"]
    assert sorted(calls) == ["a", "b", "c"]


def test_a_call_takes_no_more_items_than_its_maximum(threads: ThreadPoolExecutor) -> None:
    call = BlockingCall()
    batcher = Batcher(call, limit=10, at_once=2)
    futures = submit_in_order(batcher, call, threads, "abcdef")
    call.may_return.set()
    assert [outcome(future) for future in futures] == [f"<{item}>" for item in "abcdef"]
    assert call.calls == [["a"], ["b", "c"], ["d", "e"], ["f"]]
