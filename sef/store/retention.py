"""Old prices: rolled up into hours and days, then deleted, a day of one series at a time."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timedelta

from sqlalchemy import Connection, Table, delete, func, select, tuple_

from sef.core.pricing import Flag
from sef.core.rollup import DAY, HOUR, Bucket, buckets, start_of
from sef.core.words import counted
from sef.store.events import Event, iso, write_events
from sef.store.statements import insert_missing, swap
from sef.store.tables import price_series, pricing_daily, pricing_hourly, pricing_reports

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
        _insert(connection, pricing_hourly, key, buckets(real, HOUR))
        _insert(connection, pricing_daily, key, buckets(real, DAY))
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


def _insert(connection: Connection, table: Table, key: SeriesKey, made: Iterable[Bucket]) -> None:
    insert_missing(
        connection,
        table,
        [{"agent_id": key[0], "pool_id": key[1], **asdict(bucket)} for bucket in made],
    )


def _too_late(key: SeriesKey, day: datetime, count: int) -> Event:
    return Event(
        "prices_too_late",
        f"{counted(count, 'price')} of {key[1]} came for {day:%Y-%m-%d}, whose prices are not kept "
        "any more: "
        "its hours and its day stay as they were",
        key[0],
        "warning",
        {"pool_id": key[1], "day": iso(day), "prices": count},
    )
