"""The rows of price series, read and written for many series at once.

Each of these is one statement, or a few, for one report as for a thousand.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection

from sef.db.database import VersionConflict, is_repeated
from sef.db.tables import (
    agents,
    buffered_observations,
    price_series,
    pricing_reports,
    replica_instances,
)
from sef.prices.bulk import (
    decoded,
    delete_rows,
    instant,
    placeholder,
    price,
    select_rows,
    update_versions,
    upsert_rows,
)
from sef.prices.ingest import BufferedObservation
from sef.prices.merge import MergeWindow, SeriesBounds
from sef.prices.series import Observation, Point
from sef.terms import Flag, ReplicaStatus, Source

SeriesKey = tuple[str, str]
"""(agent_id, pool_id)"""

STRETCHES = {"sqlite": 200}
"""Stretches named in one statement, 1,000 elsewhere: SQLite's parser limits the depth of an OR."""

_series, _points, _waiting = price_series.c, pricing_reports.c, buffered_observations.c
_SERIES_KEY = (_series.agent_id, _series.pool_id)
_SERIES = (
    *_SERIES_KEY,
    _series.version,
    _series.waiting,
    _series.primary_heard_at,
    _series.replica_heard_at,
    _series.received_at,
    _series.first_at,
    _series.latest_at,
    _series.latest_price,
    _series.latest_observed_at,
)
_SERIES_NAMES = tuple(column.name for column in _SERIES)
_POINT = (
    _points.agent_id,
    _points.pool_id,
    _points.timestamp,
    _points.spot_price,
    _points.data_quality_flag,
    _points.primary_price,
    _points.replica_price,
    _points.replica_observed_at,
)
_POINT_NAMES = (*(column.name for column in _POINT), "received_at")
_STRETCH = "agent_id = {0} AND pool_id = {0} AND timestamp BETWEEN {0} AND {0}"
_BUFFERED = (
    _waiting.agent_id,
    _waiting.pool_id,
    _waiting.source,
    _waiting.observed_at,
    _waiting.spot_price,
    _waiting.received_at,
)
_BUFFERED_NAMES = tuple(column.name for column in _BUFFERED)
_REPORTER = (agents.c.instance_id, agents.c.pool_id, replica_instances.c.ready_at)
_WITH_REPORTER = (
    " {join} agents ON agents.id = present.agent_id "
    "LEFT JOIN replica_instances ON replica_instances.live_agent_id = agents.id "
    f"AND replica_instances.status = '{ReplicaStatus.READY}'"
)


@dataclass(frozen=True, slots=True)
class Series:
    """What is stored of a series, apart from its points and what waits."""

    version: int
    head: SeriesBounds | None
    waiting: int
    primary_heard_at: datetime | None
    replica_heard_at: datetime | None
    received_at: datetime | None


class Reporter(NamedTuple):
    """What reports need of their agent: instance, pool, and since when a standby is ready."""

    instance_id: str | None
    pool_id: str | None
    ready_at: datetime | None


def read_series(
    connection: Connection, keys: Iterable[SeriesKey]
) -> dict[SeriesKey, tuple[Series, Reporter]]:
    """The series that there are of those named, in the order of their keys, and who reports them.

    Races for a series are few, and their loser finds out by its version. It waits for its turn
    then: the second time, nobody else writes these series until the end. All writers lock and
    write in one order, so that they wait for each other instead of deadlocking.
    """
    named = sorted(keys)
    if is_repeated(connection):
        select_rows(connection, _SERIES_KEY, _SERIES_KEY, named, lock=True)
    found = {}
    for row in select_rows(
        connection, (*_SERIES, *_REPORTER), _SERIES_KEY, named, also=_WITH_REPORTER
    ):
        agent_id, pool_id, version, waiting, primary, replica, received, first, *rest = row
        at, price_then, observed_at, *reporter = rest
        head = None if first is None else SeriesBounds(first, at, price_then, observed_at)
        found[agent_id, pool_id] = (
            Series(version, head, waiting, primary, replica, received),
            Reporter(*reporter),
        )
    return found


def save_series(
    connection: Connection,
    read: Mapping[SeriesKey, tuple[Series, Reporter]],
    become: Mapping[SeriesKey, Series],
) -> None:
    """Write what series have become, each with its version moved on.

    Raises:
        Stale: one of them has another version than the one read.
    """
    rows = [
        (
            *key,
            read[key][0].version,
            series.waiting,
            instant(series.primary_heard_at),
            instant(series.replica_heard_at),
            instant(series.received_at),
            *_bounds_values(connection, series.head),
        )
        for key, series in become.items()
    ]
    if rows and not update_versions(connection, price_series, _SERIES_NAMES, rows):
        raise VersionConflict


def _bounds_values(connection: Connection, head: SeriesBounds | None) -> Sequence[Any]:
    if head is None:
        return (None, None, None, None)
    return (
        instant(head.first_at),
        instant(head.latest_at),
        price(connection, head.latest_price),
        instant(head.latest_observed_at),
    )


def read_points(
    connection: Connection, wanted: Mapping[SeriesKey, Sequence[MergeWindow]]
) -> defaultdict[SeriesKey, list[Point]]:
    """The points in the stretches of each series, in order of time."""
    stretches = [
        (*key, instant(part.start), instant(part.end))
        for key, parts in wanted.items()
        for part in parts
    ]
    stored: defaultdict[SeriesKey, list[Point]] = defaultdict(list)
    at_once = STRETCHES.get(connection.dialect.name, 1000)
    for start in range(0, len(stretches), at_once):
        for agent_id, pool_id, *values in _points_within(
            connection, stretches[start : start + at_once]
        ):
            stored[agent_id, pool_id].append(_point(values))
    return stored


def _points_within(
    connection: Connection, stretches: Sequence[Sequence[Any]]
) -> Sequence[Sequence[Any]]:
    # Not a join with the rows of a parameter, which would not bound the times it reads by an index.
    one = f"({_STRETCH.format(placeholder(connection))})"
    sql = (
        f"SELECT {', '.join(column.name for column in _POINT)} FROM pricing_reports "
        f"WHERE {' OR '.join([one] * len(stretches))} ORDER BY agent_id, pool_id, timestamp"
    )
    result = connection.exec_driver_sql(sql, tuple(value for row in stretches for value in row))
    return decoded(result, _POINT)


def _point(values: Sequence[Any]) -> Point:
    at, value, flag, primary, replica, replica_at = values
    return Point(at, value, Flag(flag), primary, replica, replica_at)


def write_points(
    connection: Connection,
    points: Iterable[tuple[SeriesKey, Point]],
    deletes: Iterable[tuple[SeriesKey, datetime]],
    now: datetime,
) -> None:
    received_at = instant(now)
    delete_rows(connection, pricing_reports, [(*key, instant(at)) for key, at in deletes])
    rows = [
        (
            *key,
            instant(point.at),
            price(connection, point.price),
            point.flag,
            price(connection, point.primary),
            price(connection, point.replica),
            instant(point.replica_at),
            received_at,
        )
        for key, point in points
    ]
    upsert_rows(connection, pricing_reports, _POINT_NAMES, rows)


def read_waiting(
    connection: Connection, keys: Collection[SeriesKey]
) -> defaultdict[SeriesKey, list[BufferedObservation]]:
    waiting: defaultdict[SeriesKey, list[BufferedObservation]] = defaultdict(list)
    if keys:
        rows = select_rows(
            connection, _BUFFERED, (_waiting.agent_id, _waiting.pool_id), sorted(keys)
        )
        for agent_id, pool_id, source, observed_at, value, received_at in rows:
            seen = Observation(Source(source), observed_at, value)
            waiting[agent_id, pool_id].append(BufferedObservation(seen, received_at))
    return waiting


def write_waiting(
    connection: Connection,
    held: Iterable[tuple[SeriesKey, Observation]],
    released: Iterable[tuple[SeriesKey, Observation]],
    now: datetime,
) -> None:
    received_at = instant(now)
    keys = [(*key, seen.source, instant(seen.at)) for key, seen in released]
    delete_rows(connection, buffered_observations, keys)
    rows = [
        (*key, seen.source, instant(seen.at), price(connection, seen.price), received_at)
        for key, seen in held
    ]
    upsert_rows(connection, buffered_observations, _BUFFERED_NAMES, rows)
