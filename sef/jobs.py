"""The periodic jobs, on an APScheduler in each process; a lease picks the process that works."""

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from apscheduler.schedulers.background import BackgroundScheduler

from sef.config import Settings
from sef.errors import SefError

log = logging.getLogger("sef")

CLEANUP = "sef_cleanup"
RECONCILE = "sef_reconcile"
ORPHANS = "sef_orphans"
LOSSES = "sef_losses"
SWITCHOVERS = "sef_switchovers"
NOTIFICATIONS = "sef_notifications"
LEASE = timedelta(seconds=5)
"""How long a job waits for a process that died while it held the lease."""


class PeriodicWork(Protocol):
    """The part of the façade that the jobs call."""

    def cleanup_old_buffers(self) -> int: ...
    def reconcile(self) -> int: ...
    def sweep_orphans(self) -> int: ...
    def detect_losses(self) -> int: ...
    def plan_switchovers(self) -> int: ...
    def deliver_notifications(self) -> int: ...
    def holds_lease(self, name: str, duration: timedelta) -> bool: ...


def start_jobs(sef: PeriodicWork, settings: Settings) -> BackgroundScheduler:
    """Start the jobs; the caller shuts the scheduler down."""
    scheduler = BackgroundScheduler(timezone="UTC")
    jobs = [
        (CLEANUP, sef.cleanup_old_buffers, settings.cleanup_interval),
        (RECONCILE, sef.reconcile, settings.reconcile_interval),
        (ORPHANS, sef.sweep_orphans, settings.orphan_check_interval),
        (SWITCHOVERS, sef.plan_switchovers, settings.switchover_check_interval),
        (NOTIFICATIONS, sef.deliver_notifications, settings.notify_interval),
    ]
    if settings.loss_silence:
        jobs.append((LOSSES, sef.detect_losses, settings.loss_check_interval))
    for job_id, work, seconds in jobs:
        scheduler.add_job(
            _under_lease(sef, job_id, work, timedelta(seconds=seconds)),
            "interval",
            seconds=seconds,
            id=job_id,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=max(1, int(seconds)),
        )
    scheduler.start()
    return scheduler


def _under_lease(
    sef: PeriodicWork, job_id: str, work: Callable[[], int], interval: timedelta
) -> Callable[[], None]:
    def run() -> None:
        try:
            if sef.holds_lease(job_id, interval + LEASE):
                work()
        except SefError as error:
            # The next run tries again; the rows say what is left to do.
            log.warning("SEF: %s was cut short: %s", job_id, error)
        except RuntimeError:
            # No thread can be started while the interpreter ends; the rows wait for the next start.
            if threading.main_thread().is_alive():
                raise

    return run
