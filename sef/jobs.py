"""The periodic jobs, on an APScheduler in each process; a lease picks the process that works."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.schedulers.background import BackgroundScheduler

from sef.config import Settings
from sef.errors import JobsNotRunning, SefError

log = logging.getLogger("sef")

CLEANUP = "sef_cleanup"
RECONCILE = "sef_reconcile"
ORPHANS = "sef_orphans"
LOSSES = "sef_losses"
SWITCHOVERS = "sef_switchovers"
NOTIFICATIONS = "sef_notifications"
RETENTION = "sef_retention"
RETENTION_EVERY = 60.0
HEARTBEAT = "sef_heartbeat"
LEASE = timedelta(seconds=5)
"""How long a job waits for a process that died while it held the lease."""

BEAT_SECONDS = 2.0
SILENT_SECONDS = 30
"""How long the ticker may be silent before it counts as dead."""
STUCK_SECONDS = 600
"""How long one run of a job may take before it counts as stuck; EC2 may be slow for minutes."""


class PeriodicWork(Protocol):
    """The part of the façade that the jobs call."""

    def cleanup_old_buffers(self) -> int: ...
    def reconcile(self) -> int: ...
    def sweep_orphans(self) -> int: ...
    def detect_losses(self) -> int: ...
    def plan_switchovers(self) -> int: ...
    def deliver_notifications(self) -> int: ...
    def delete_old_prices(self) -> int: ...
    def holds_lease(self, name: str, duration: timedelta) -> bool: ...


class _Threads(ThreadPoolExecutor):  # type: ignore[misc]
    """As APScheduler's own, which submits on while a process that ends waits for its requests."""

    def submit_job(self, job: Job, run_times: list[datetime]) -> None:
        try:
            super().submit_job(job, run_times)
        except RuntimeError as error:
            if not str(error).startswith("cannot schedule new futures after"):
                raise


class Jobs:
    """The jobs of this process, which run until `shutdown`.

    `clock` tells seconds that never go back.
    """

    def __init__(
        self,
        sef: PeriodicWork,
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
        """Raises JobsStopped when the ticker of this process is dead, or a job of it is stuck."""
        now = self._clock()
        silent = now - self._beaten_at
        if silent > SILENT_SECONDS:
            raise JobsNotRunning(f"the ticker has been silent for {silent:.0f} s")
        for job_id, since in list(self._running_since.items()):
            if now - since > STUCK_SECONDS:
                raise JobsNotRunning(f"{job_id} has been running for {now - since:.0f} s")

    def shutdown(self, wait: bool = True) -> None:
        """Start no more runs, and wait for those that are under way."""
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
                # The next run tries again; the rows say what is left to do.
                log.warning("SEF: %s was cut short: %s", job_id, error)
            except RuntimeError:
                # No thread can be started while the interpreter ends; the rows wait for the next
                # start.
                if threading.main_thread().is_alive():
                    raise
            finally:
                del self._running_since[job_id]

        return run


def start_jobs(sef: PeriodicWork, settings: Settings) -> Jobs:
    """Start the jobs; the caller shuts them down."""
    return Jobs(sef, settings)
