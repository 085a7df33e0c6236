"""Read the clock, and format times. An operation reads the clock once and passes the time on."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


def milliseconds(since: datetime, until: datetime) -> int:
    """Return the duration in whole milliseconds; 0 if the clock was set back in between."""
    return max(round((until - since) / timedelta(milliseconds=1)), 0)


def iso(at: datetime | None) -> str | None:
    """Return a UTC time as 2021-11-21T13:06:40Z, with a fraction only if it has one."""
    return None if at is None else at.isoformat().replace("+00:00", "Z")
