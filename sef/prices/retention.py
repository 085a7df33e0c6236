"""Roll old prices up into hourly and daily buckets, and delete them."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

from sqlalchemy import Connection, Table, delete, func, select, tuple_

from sef.clock import iso
from sef.db.database import Database
from sef.db.statements import insert_missing, swap
from sef.db.tables import price_series, pricing_daily, pricing_hourly, pricing_reports
from sef.errors import Unavailable
from sef.notifications.events import Event, write_events
from sef.notifications.failures import report_failure_at
from sef.prices.series import SeriesKey
from sef.terms import STORED_STEP, Flag, plural

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

PAGE = 100
"""Number of series read at once."""

DAYS_PER_RUN = 500
"""Maximum number of days, each of one series, deleted in one run.

Each day is deleted in a transaction of its own, so that reports wait only briefly.
"""

SETTLED_AFTER = timedelta(days=1)
"""Time without a new report of a day before the day is rolled up, so that a backfill can finish."""

_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PriceBucket:
    """The prices of one hour or one day."""

    starts_at: datetime
    points: int
    min_price: Decimal
    max_price: Decimal
    mean_price: Decimal
    """Mean of the points, all with the same weight, rounded half-even to the stored step."""
    first_price: Decimal
    last_price: Decimal


def delete_old_prices(database: Database, retention: timedelta, now: datetime) -> int:
    """Roll up and delete the prices older than `retention`.

    A run stops after DAYS_PER_RUN; the next run continues. A day that is not settled yet, a series
    that is being written, or a series that raises does not delay other series.

    Returns:
        The number of deleted days, each of one series.
    """
    before = start_of(now - retention, DAY)
    deleted = 0
    page = database.read(series_with_old_prices, ("", ""), before, PAGE)
    while page:
        for key in page:
            while deleted < DAYS_PER_RUN and _delete_day(database, key, before, now):
                deleted += 1
        if deleted == DAYS_PER_RUN:
            return deleted
        page = database.read(series_with_old_prices, page[-1], before, PAGE)
    return deleted


def _delete_day(database: Database, key: SeriesKey, before: datetime, now: datetime) -> bool:
    """Delete the oldest day of a series; False if it has none, or if that fails."""
    try:
        return database.write(delete_oldest_day, key, before, now)
    except Unavailable:
        raise
    except Exception as error:
        report_failure_at(database, key[0], "deletion of prices", error, now)
        return False


def start_of(at: datetime, length: timedelta) -> datetime:
    """Return the start of the bucket that contains `at`. Days are days in UTC."""
    return at - (at - _ORIGIN) % length


def price_buckets(
    prices: Iterable[tuple[datetime, Decimal]], length: timedelta
) -> list[PriceBucket]:
    """Return the buckets of real prices, in order of time.

    `prices` must not contain interpolated prices, since no source observed them.
    """
    by_start: defaultdict[datetime, list[Decimal]] = defaultdict(list)
    for at, price in sorted(prices):
        by_start[start_of(at, length)].append(price)
    return [
        PriceBucket(
            starts_at=starts_at,
            points=len(bucket),
            min_price=min(bucket),
            max_price=max(bucket),
            mean_price=(sum(bucket, Decimal()) / len(bucket)).quantize(
                STORED_STEP, ROUND_HALF_EVEN
            ),
            first_price=bucket[0],
            last_price=bucket[-1],
        )
        for starts_at, bucket in by_start.items()
    ]


def series_with_old_prices(
    connection: Connection, after: SeriesKey, before: datetime, limit: int
) -> list[SeriesKey]:
    """Return keys of series with points before `before`, in order, from the first after `after`."""
    columns = price_series.c
    keys = tuple_(columns.agent_id, columns.pool_id)
    rows = connection.execute(
        select(columns.agent_id, columns.pool_id)
        # This includes a series with only its newest day left, which `delete_oldest_day` keeps.
        .where(columns.first_at < before, keys > after)
        .order_by(columns.agent_id, columns.pool_id)
        .limit(limit)
    )
    return [(row.agent_id, row.pool_id) for row in rows]


def delete_oldest_day(
    connection: Connection, key: SeriesKey, before: datetime, now: datetime
) -> bool:
    """Roll up the oldest day of a series and delete its points.

    Only whole days earlier than `before` are deleted, and never the newest day of a series. SEF
    cannot distinguish a late report for a deleted day from a repeated one: the buckets of the day
    stay as they are, and an event reports the late prices.

    Returns:
        False if the series has no day to delete.
    """
    agent_id, pool_id = key
    series = price_series.c
    row = connection.execute(
        select(price_series)
        .where(series.agent_id == agent_id, series.pool_id == pool_id)
        .with_for_update()
    ).one()
    if row.first_at is None:  # all observations of the series wait in the buffer
        return False
    day = start_of(row.first_at, DAY)
    if day + DAY > min(before, start_of(row.latest_at, DAY)):
        return False
    points = pricing_reports.c
    of_series = (points.agent_id == agent_id, points.pool_id == pool_id)
    # Interpolated points of a gap that started on the day before are deleted with this day.
    of_day = (*of_series, points.timestamp < day + DAY)
    stored = connection.execute(
        select(points.timestamp, points.spot_price, points.data_quality_flag, points.received_at)
        .where(*of_day)
        .order_by(points.timestamp)
    ).all()
    if any(point.received_at > now - SETTLED_AFTER for point in stored):
        return False
    real = [
        (point.timestamp, point.spot_price)
        for point in stored
        if point.data_quality_flag != Flag.INTERPOLATED
    ]
    if _is_rolled_up(connection, key, day):
        write_events(connection, [_too_late(key, day, len(real))], now)
    else:
        _insert_buckets(connection, pricing_hourly, key, price_buckets(real, HOUR))
        _insert_buckets(connection, pricing_daily, key, price_buckets(real, DAY))
    connection.execute(delete(pricing_reports).where(*of_day))
    first_at = connection.scalar(
        select(func.min(points.timestamp)).where(
            *of_series, points.data_quality_flag != Flag.INTERPOLATED
        )
    )
    # No point is left if the points were deleted by other means, such as a dropped partition.
    first_at = first_at or row.latest_at
    series_key = {"agent_id": agent_id, "pool_id": pool_id}
    swap(connection, price_series, series_key, version=row.version, first_at=first_at)
    return True


def _is_rolled_up(connection: Connection, key: SeriesKey, day: datetime) -> bool:
    columns = pricing_daily.c
    points = connection.scalar(
        select(columns.points).where(
            columns.agent_id == key[0], columns.pool_id == key[1], columns.starts_at == day
        )
    )
    return points is not None


def _insert_buckets(
    connection: Connection, table: Table, key: SeriesKey, buckets: Iterable[PriceBucket]
) -> None:
    insert_missing(
        connection,
        table,
        [{"agent_id": key[0], "pool_id": key[1], **asdict(bucket)} for bucket in buckets],
    )


def _too_late(key: SeriesKey, day: datetime, count: int) -> Event:
    agent_id, pool_id = key
    return Event(
        "prices_too_late",
        f"{plural(count, 'price')} of {pool_id} arrived for {day:%Y-%m-%d} after the prices of "
        "that day were deleted; the hourly and daily prices of the day stay as they are",
        agent_id,
        severity="warning",
        details={"pool_id": pool_id, "day": iso(day), "prices": count},
    )
