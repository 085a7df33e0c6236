"""The periodic jobs: a scheduler in each process, and a lease that decides which process works."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.schedulers.background import BackgroundScheduler

from sef.config import Settings
from sef.errors import JobsNotRunning, SefError

if TYPE_CHECKING:
    from smart_emergency_fallback import SmartEmergencyFallback

log = logging.getLogger("sef")

CLEANUP = "sef_cleanup"
RECONCILE = "sef_reconcile"
ORPHANS = "sef_orphans"
LOSSES = "sef_losses"
SWITCHOVERS = "sef_switchovers"
NOTIFICATIONS = "sef_notifications"
RETENTION = "sef_retention"
HEARTBEAT = "sef_heartbeat"

RETENTION_EVERY = 60.0
"""Interval at which old prices are deleted, in seconds."""
LEASE = timedelta(seconds=5)
"""Time after a missed pass until another process takes the lease over."""
BEAT_SECONDS = 2.0
"""Interval of the heartbeat, which proves that the scheduler runs."""
SILENT_SECONDS = 30
"""Maximum time between two heartbeats before the scheduler counts as dead."""
STUCK_SECONDS = 600
"""Maximum time of one pass before its job counts as stuck; EC2 may be slow for minutes."""


class _Threads(ThreadPoolExecutor):  # type: ignore[misc]
    """APScheduler's thread pool, without its error at the end of the process.

    While an ending process waits for its requests, APScheduler still submits passes to a pool that
    accepts no more work.
    """

    def submit_job(self, job: Job, run_times: list[datetime]) -> None:
        try:
            super().submit_job(job, run_times)
        except RuntimeError as error:
            if not str(error).startswith("cannot schedule new futures after"):
                raise


class Jobs:
    """The jobs of this process, which run until `shutdown`.

    Args:
        clock: a monotonic clock, in seconds.
        beat_seconds: interval of the heartbeat.
    """

    def __init__(
        self,
        sef: "SmartEmergencyFallback",
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self.scheduler = BackgroundScheduler(executors={"default": _Threads()}, timezone="UTC")
        self._sef = sef
        self._clock = clock
        self._beaten_at = clock()
        self._running_since: dict[str, float] = {}
        jobs = [
            (CLEANUP, sef.cleanup_old_buffers, settings.cleanup_interval_seconds),
            (RECONCILE, sef.reconcile, settings.reconcile_interval_seconds),
            (ORPHANS, sef.sweep_orphans, settings.orphan_check_interval_seconds),
            (SWITCHOVERS, sef.plan_switchovers, settings.switchover_check_interval_seconds),
            (NOTIFICATIONS, sef.deliver_notifications, settings.notification_interval_seconds),
        ]
        if settings.silence_threshold_seconds:
            jobs.append((LOSSES, sef.detect_losses, settings.loss_check_interval_seconds))
        if settings.price_retention_days:
            jobs.append((RETENTION, sef.delete_old_prices, RETENTION_EVERY))
        for job_id, work, seconds in jobs:
            interval = timedelta(seconds=seconds)
            self._add(job_id, self._under_lease(job_id, work, interval), seconds)
        self._add(HEARTBEAT, self._beat, beat_seconds)
        self.scheduler.start()

    def _add(self, job_id: str, run: Callable[[], None], seconds: float) -> None:
        self.scheduler.add_job(
            run,
            "interval",
            seconds=seconds,
            id=job_id,
            name=job_id,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=max(1, int(seconds)),
        )

    def check(self) -> None:
        """Check that the jobs of this process run.

        Raises:
            JobsNotRunning: the scheduler is dead, or a job is stuck.
        """
        now = self._clock()
        silent = now - self._beaten_at
        if silent > SILENT_SECONDS:
            raise JobsNotRunning(f"no heartbeat for {silent:.0f} s")
        for job_id, since in list(self._running_since.items()):
            if now - since > STUCK_SECONDS:
                raise JobsNotRunning(f"{job_id} has been running for {now - since:.0f} s")

    def shutdown(self, wait: bool = True) -> None:
        """Start no more passes; with `wait`, return when the running ones have finished."""
        self.scheduler.shutdown(wait)

    def _beat(self) -> None:
        self._beaten_at = self._clock()

    def _under_lease(
        self, job_id: str, work: Callable[[], int], interval: timedelta
    ) -> Callable[[], None]:
        def run() -> None:
            self._running_since[job_id] = self._clock()
            try:
                if self._sef.holds_lease(job_id, interval + LEASE):
                    work()
            except SefError as error:
                # The next pass retries: the rows say what is left to do.
                log.warning("SEF: %s stopped early and is retried: %s", job_id, error)
            except Exception as error:
                # No thread can be started while the interpreter ends. The rows keep the work until
                # the next start.
                is_end = isinstance(error, RuntimeError) and not threading.main_thread().is_alive()
                if not is_end:
                    self._sef.report_failure(job_id, error)
            finally:
                del self._running_since[job_id]

        return run


def start_jobs(sef: "SmartEmergencyFallback", settings: Settings) -> Jobs:
    """Start the jobs; the caller shuts them down."""
    return Jobs(sef, settings)
