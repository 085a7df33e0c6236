"""The time, taken once per operation and passed in from there."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


def iso(at: datetime | None) -> str | None:
    """As in 2021-11-21T13:06:40Z, with a fraction only where there is one."""
    return None if at is None else at.isoformat().replace("+00:00", "Z")
