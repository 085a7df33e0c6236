"""GET /readyz fails when the periodic jobs of the process have stopped."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from apscheduler.events import EVENT_JOB_SUBMITTED
from flask import Flask

from sef.config import Settings
from sef.jobs import HEARTBEAT, SILENT_SECONDS, STUCK_SECONDS, Jobs
from tests.waiting import LIMIT, until


class Work:
    """Jobs that do nothing, except `reconcile`, which runs until `may_end`."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def holds_lease(self, name: str, duration: timedelta) -> bool:
        return True

    def reconcile(self) -> int:
        self.has_begun.set()
        self.may_end.wait(2 * LIMIT)
        return 0

    def nothing(self) -> int:
        return 0

    cleanup_old_buffers = sweep_orphans = detect_losses = nothing
    plan_switchovers = deliver_notifications = delete_old_prices = nothing


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.may_end.set()


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def jobs(work: Work, clock: Seconds) -> Iterator[Jobs]:
    jobs = Jobs(work, Settings(reconcile_interval_seconds=0.02), clock=clock, beat_seconds=0.02)
    yield jobs
    if jobs.scheduler.running:
        jobs.shutdown(wait=False)


@pytest.fixture
def ready(make_app: Callable[..., Flask], jobs: Jobs) -> Callable[[], Any]:
    app = make_app(cloud="aws", region="us-east-1", ec2_endpoint="http://127.0.0.1:9")
    app.extensions["sef_jobs"] = jobs
    return lambda: app.test_client().get("/readyz")


def beaten(jobs: Jobs, times: int = 2) -> None:
    """Wait for beats of the ticker. The second beat began after this call."""
    for _ in range(times):
        jobs._beaten_at = -1.0
        until(lambda: jobs._beaten_at >= 0)


def test_a_process_whose_ticker_runs_is_ready(ready: Callable[[], Any], clock: Seconds) -> None:
    assert ready().status_code == 200
    clock.now += SILENT_SECONDS + 1
    until(lambda: ready().status_code == 200)  # the next beat


def test_a_process_with_a_dead_ticker_is_not_ready(
    ready: Callable[[], Any], jobs: Jobs, clock: Seconds
) -> None:
    jobs.shutdown(wait=False)
    assert ready().status_code == 200
    clock.now += SILENT_SECONDS + 1
    answer = ready()
    assert (answer.status_code, answer.json["reason"]) == (503, "jobs_stopped")
    assert answer.headers["Retry-After"].isdigit()


def test_a_process_with_a_blocked_ticker_is_not_ready_until_it_continues(
    ready: Callable[[], Any], jobs: Jobs, clock: Seconds
) -> None:
    is_blocked, may_continue = threading.Event(), threading.Event()

    def block(_: Any) -> None:
        is_blocked.set()
        may_continue.wait(2 * LIMIT)

    jobs.scheduler.add_listener(block, EVENT_JOB_SUBMITTED)
    assert is_blocked.wait(LIMIT)
    # Wait for a beat that was submitted before.
    running = jobs.scheduler._lookup_executor("default")._instances
    until(lambda: running[HEARTBEAT] == 0)
    clock.now += SILENT_SECONDS + 1
    assert ready().status_code == 503
    jobs.scheduler.remove_listener(block)
    may_continue.set()
    until(lambda: ready().status_code == 200)


def test_a_process_with_a_stuck_job_is_not_ready(
    ready: Callable[[], Any], jobs: Jobs, work: Work, clock: Seconds
) -> None:
    assert work.has_begun.wait(LIMIT)
    clock.now += STUCK_SECONDS + 1
    beaten(jobs)  # a beat alone does not make the process ready
    answer = ready()
    assert (answer.status_code, answer.json["reason"]) == (503, "jobs_stopped")
    assert "sef_reconcile" in answer.json["message"]
    work.may_end.set()
    until(lambda: ready().status_code == 200)


def test_a_process_without_jobs_is_ready(make_app: Callable[..., Flask]) -> None:
    app = make_app(cloud="aws", region="us-east-1", ec2_endpoint="http://127.0.0.1:9")
    assert app.test_client().get("/readyz").status_code == 200
