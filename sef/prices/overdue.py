"""Release the observations that have waited long enough for the other half of their pair."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, tuple_

from sef.clock import Clock
from sef.db.database import Database
from sef.db.tables import buffered_observations
from sef.errors import Unavailable
from sef.notifications.failures import report_failure_at
from sef.prices.series import CleaningRules, SeriesKey
from sef.prices.write import release_buffered

SERIES_PER_RELEASE = 200
"""Maximum number of series in one transaction that releases buffered observations."""


def release_overdue(
    database: Database, clock: Clock, rules: CleaningRules, window: timedelta
) -> int:
    """Store the observations that have waited for `window` as points of their own.

    A series whose observations cannot be stored delays no other series.

    Returns:
        The number of series with such observations.
    """
    released = 0
    after: SeriesKey = ("", "")
    while keys := database.read(_overdue_series, clock() - window, after):
        released += _release(database, clock, rules, window, keys)
        after = keys[-1]
    return released


def _release(
    database: Database,
    clock: Clock,
    rules: CleaningRules,
    window: timedelta,
    keys: Sequence[SeriesKey],
) -> int:
    """Release the observations of some series together or, if that fails, one by one."""
    try:
        database.write(release_buffered, keys, now=clock(), rules=rules, window=window)
    except Unavailable:
        raise
    except Exception as error:
        if len(keys) > 1:
            return sum(_release(database, clock, rules, window, [key]) for key in keys)
        [(agent_id, _)] = keys
        report_failure_at(database, agent_id, "release of prices", error, clock())
        return 0
    return len(keys)


def _overdue_series(
    connection: Connection, received_before: datetime, after: SeriesKey
) -> Sequence[SeriesKey]:
    columns = buffered_observations.c
    key = tuple_(columns.agent_id, columns.pool_id)
    rows = connection.execute(
        select(columns.agent_id, columns.pool_id)
        .where(columns.received_at <= received_before, key > after)
        .distinct()
        .order_by(columns.agent_id, columns.pool_id)
        .limit(SERIES_PER_RELEASE)
    )
    return [(row.agent_id, row.pool_id) for row in rows]
