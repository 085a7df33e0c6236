"""Roll old prices up into hours and days, and delete them."""

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
from sef.notifications.events import Event, write_events
from sef.terms import STORED_STEP, Flag, plural

PAGE = 100
DAYS_PER_RUN = 500
"""Days of single series; each is a transaction of its own, so nobody waits for long."""


def delete_old_prices(database: Database, retention: timedelta, now: datetime) -> int:
    """Roll up and delete what is older than `retention`; returns how many days of series went.

    One run ends after DAYS_PER_RUN; the next goes on. A day that is not settled yet, or a series
    that is written to at this moment, holds nobody else up.
    """
    before = start_of(now - retention, DAY)

    def page_behind(after: SeriesKey) -> list[SeriesKey]:
        return database.read(series_with_old_prices, after, before, PAGE)

    def delete_one_day(key: SeriesKey) -> bool:
        return database.write(delete_oldest_day, key, before, now)

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


HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PriceBucket:
    starts_at: datetime
    points: int
    min_price: Decimal
    max_price: Decimal
    mean_price: Decimal
    """Of the points, each counting the same; rounded half-even to what is stored."""
    first_price: Decimal
    last_price: Decimal


def start_of(at: datetime, length: timedelta) -> datetime:
    """The start of the bucket that a moment is in; days are those of UTC."""
    return at - (at - _ORIGIN) % length


def price_buckets(
    prices: Iterable[tuple[datetime, Decimal]], length: timedelta
) -> list[PriceBucket]:
    """The buckets of real prices, in order; an interpolated one is nobody's observation."""
    found: defaultdict[datetime, list[Decimal]] = defaultdict(list)
    for at, price in sorted(prices):
        found[start_of(at, length)].append(price)
    return [
        PriceBucket(
            starts_at,
            len(seen),
            min(seen),
            max(seen),
            (sum(seen, Decimal()) / len(seen)).quantize(STORED_STEP, ROUND_HALF_EVEN),
            seen[0],
            seen[-1],
        )
        for starts_at, seen in found.items()
    ]


SeriesKey = tuple[str, str]
"""(agent_id, pool_id)"""

SETTLED_AFTER = timedelta(days=1)
"""How long no report of a day may have come before the day is rolled up: a backfill is let end."""


def series_with_old_prices(
    connection: Connection, after: SeriesKey, before: datetime, limit: int
) -> list[SeriesKey]:
    """Series, in order of their keys from behind `after` on, that have points before a moment."""
    columns = price_series.c
    keys = tuple_(columns.agent_id, columns.pool_id)
    rows = connection.execute(
        select(columns.agent_id, columns.pool_id)
        # Series of which only the newest day is left are none of ours.
        .where(columns.first_at < before, keys > after)
        .order_by(columns.agent_id, columns.pool_id)
        .limit(limit)
    )
    return [(row.agent_id, row.pool_id) for row in rows]


def delete_oldest_day(
    connection: Connection, key: SeriesKey, before: datetime, now: datetime
) -> bool:
    """Roll the oldest day of a series up and delete its points; whether there was such a day.

    Only whole days before `before` go, and never the newest day of a series. What comes for a day
    whose points are gone cannot be told from a repeat: the day stays as it is, and an event tells.
    """
    series = price_series.c
    of_series = (series.agent_id == key[0], series.pool_id == key[1])
    head = connection.execute(select(price_series).where(*of_series).with_for_update()).one()
    if head.first_at is None:  # all that it has waits in the buffer
        return False
    day = start_of(head.first_at, DAY)
    if day + DAY > min(before, start_of(head.latest_at, DAY)):
        return False
    points = pricing_reports.c
    of_day = (
        points.agent_id == key[0],
        points.pool_id == key[1],
        # Points that fill a gap from the day before on go with it.
        points.timestamp < day + DAY,
    )
    rows = connection.execute(
        select(points.timestamp, points.spot_price, points.data_quality_flag, points.received_at)
        .where(*of_day)
        .order_by(points.timestamp)
    ).all()
    if any(row.received_at > now - SETTLED_AFTER for row in rows):
        return False
    real = [(r.timestamp, r.spot_price) for r in rows if r.data_quality_flag != Flag.INTERPOLATED]
    if _is_there(connection, key, day):
        write_events(connection, [_too_late(key, day, len(real))], now)
    else:
        _insert(connection, pricing_hourly, key, price_buckets(real, HOUR))
        _insert(connection, pricing_daily, key, price_buckets(real, DAY))
    connection.execute(delete(pricing_reports).where(*of_day))
    first_at = connection.scalar(
        select(func.min(points.timestamp)).where(
            points.agent_id == key[0],
            points.pool_id == key[1],
            points.data_quality_flag != Flag.INTERPOLATED,
        )
    )
    # There is none where somebody else took the points away, such as by dropping partitions.
    left = first_at or head.latest_at
    named = {"agent_id": key[0], "pool_id": key[1]}
    swap(connection, price_series, named, version=head.version, first_at=left)
    return True


def _is_there(connection: Connection, key: SeriesKey, day: datetime) -> bool:
    columns = pricing_daily.c
    return (
        connection.scalar(
            select(columns.points).where(
                columns.agent_id == key[0], columns.pool_id == key[1], columns.starts_at == day
            )
        )
        is not None
    )


def _insert(
    connection: Connection, table: Table, key: SeriesKey, made: Iterable[PriceBucket]
) -> None:
    insert_missing(
        connection,
        table,
        [{"agent_id": key[0], "pool_id": key[1], **asdict(bucket)} for bucket in made],
    )


def _too_late(key: SeriesKey, day: datetime, count: int) -> Event:
    return Event(
        "prices_too_late",
        f"{plural(count, 'price')} of {key[1]} came for {day:%Y-%m-%d}, whose prices are not kept "
        "any more: "
        "its hours and its day stay as they were",
        key[0],
        "warning",
        {"pool_id": key[1], "day": iso(day), "prices": count},
    )
