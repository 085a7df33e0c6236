"""Which prices and messages are kept, and for how long."""

from datetime import datetime, timedelta

from sef.core.rollup import DAY, start_of
from sef.store import idempotency, notifications
from sef.store.database import Database
from sef.store.retention import SeriesKey, delete_oldest_day, series_with_old_prices

PAGE = 100
DAYS_PER_RUN = 500
"""Days of single series; each is a transaction of its own, so nobody waits for long."""

MESSAGES_PER_TRANSACTION = 500


def forget(database: Database, message_retention: timedelta | None, now: datetime) -> None:
    """Delete the answers to idempotency keys and the messages that are kept no longer.

    Args:
        message_retention: None keeps them for ever.
    """
    database.write(lambda c: idempotency.forget(c, now - idempotency.KEPT))
    while message_retention is not None:
        before = now - message_retention
        count = database.write(
            lambda c, before=before: notifications.forget(c, before, MESSAGES_PER_TRANSACTION)  # type: ignore[misc]
        )
        if count < MESSAGES_PER_TRANSACTION:
            return


def delete_old_prices(database: Database, retention: timedelta, now: datetime) -> int:
    """Roll up and delete what is older than `retention`; returns how many days of series went.

    One run ends after DAYS_PER_RUN; the next goes on. A day that is not settled yet, or a series
    that is written to at this moment, holds nobody else up.
    """
    before = start_of(now - retention, DAY)

    def page_behind(after: SeriesKey) -> list[SeriesKey]:
        return database.read(lambda c: series_with_old_prices(c, after, before, PAGE))

    def delete_one_day(key: SeriesKey) -> bool:
        return database.write(lambda c: delete_oldest_day(c, key, before, now))

    deleted = 0
    page = page_behind(("", ""))
    while page:
        for key in page:
            while delete_one_day(key):
                deleted += 1
                if deleted == DAYS_PER_RUN:
                    return deleted
        page = page_behind(page[-1])
    return deleted
