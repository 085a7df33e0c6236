"""Read and write the rows of many price series at once.

Each function executes one statement or a few, independently of the number of series.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
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
    is_sqlite,
    placeholder,
    price,
    select_rows,
    update_versions,
    upsert_rows,
)
from sef.prices.ingest import BufferedObservation
from sef.prices.merge import MergeWindow, SeriesBounds
from sef.prices.series import Observation, Point, SeriesKey
from sef.terms import Flag, Source

MAX_WINDOWS = 1000
"""Maximum number of windows in one SELECT."""

SQLITE_MAX_WINDOWS = 200
"""Maximum number of windows in one SELECT on SQLite, whose parser limits the depth of an OR."""

_series, _points, _waiting = price_series.c, pricing_reports.c, buffered_observations.c
_SERIES_KEY = (_series.agent_id, _series.pool_id)
_SERIES = (
    *_SERIES_KEY,
    _series.version,
    _series.waiting,
    _series.replica_heard_at,
    _series.received_at,
    _series.first_at,
    _series.latest_at,
    _series.latest_price,
    _series.latest_observed_at,
    _series.widest_fill_ms,
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
_WINDOW = "agent_id = {0} AND pool_id = {0} AND timestamp BETWEEN {0} AND {0}"
_BUFFERED = (
    _waiting.agent_id,
    _waiting.pool_id,
    _waiting.source,
    _waiting.observed_at,
    _waiting.spot_price,
    _waiting.received_at,
)
_BUFFERED_NAMES = tuple(column.name for column in _BUFFERED)
_standby, _launched = replica_instances.alias("standby").c, replica_instances.alias("launched").c
_REPORTER = (
    agents.c.instance_id,
    agents.c.pool_id,
    agents.c.primary_since,
    _launched.instance_id,
    _standby.instance_id,
    _standby.ready_at,
)
_WITH_REPORTER = (
    " {join} agents ON agents.id = present.agent_id "
    "LEFT JOIN replica_instances AS standby ON standby.live_agent_id = agents.id "
    "LEFT JOIN replica_instances AS launched ON launched.instance_id = agents.instance_id"
)


@dataclass(frozen=True, slots=True)
class Series:
    """A row of `price_series`."""

    version: int
    bounds: SeriesBounds | None
    waiting: int
    """The number of observations in the buffer."""
    replica_heard_at: datetime | None
    received_at: datetime | None


class Reporter(NamedTuple):
    """The columns of an agent that its reports need.

    `launched_id` is `instance_id` if SEF launched the primary, else None. `ready_at` is the time at
    which the agent's standby became ready; None without a ready standby.
    """

    instance_id: str | None
    pool_id: str | None
    primary_since: datetime | None
    launched_id: str | None
    standby_id: str | None
    ready_at: datetime | None


def read_series(
    connection: Connection, keys: Iterable[SeriesKey]
) -> dict[SeriesKey, tuple[Series, Reporter]]:
    """Return the existing series of the keys, in the order of the keys, with their reporters.

    Conflicts are rare and detected by version. A retry locks the rows first, so it cannot lose
    again. All writers lock and write in the same order, so they wait for each other instead of
    deadlocking.
    """
    ordered = sorted(keys)
    if is_repeated(connection):
        select_rows(connection, _SERIES_KEY, _SERIES_KEY, ordered, lock=True)
    result = {}
    for row in select_rows(
        connection, (*_SERIES, *_REPORTER), _SERIES_KEY, ordered, also=_WITH_REPORTER
    ):
        agent_id, pool_id, version, waiting, replica, received, first_at, *rest = row
        latest_at, latest_price, latest_observed_at, widest_fill_ms, *reporter = rest
        bounds = None
        if first_at is not None:
            widest = timedelta(milliseconds=widest_fill_ms)
            bounds = SeriesBounds(first_at, latest_at, latest_price, latest_observed_at, widest)
        result[agent_id, pool_id] = (
            Series(version, bounds, waiting, replica, received),
            Reporter(*reporter),
        )
    return result


def save_series(
    connection: Connection,
    read: Mapping[SeriesKey, tuple[Series, Reporter]],
    changed: Mapping[SeriesKey, Series],
) -> None:
    """Write the rows of changed series and increment their versions.

    Raises:
        VersionConflict: a row has another version than the one read.
    """
    rows = [
        (
            *key,
            read[key][0].version,
            series.waiting,
            instant(series.replica_heard_at),
            instant(series.received_at),
            *_bounds_values(connection, series.bounds),
        )
        for key, series in changed.items()
    ]
    if rows and not update_versions(connection, price_series, _SERIES_NAMES, rows):
        raise VersionConflict


def read_points(
    connection: Connection, wanted: Mapping[SeriesKey, Sequence[MergeWindow]]
) -> defaultdict[SeriesKey, list[Point]]:
    """Return the points in the windows of each series, in order of time."""
    windows = [
        (*key, instant(window.start), instant(window.end))
        for key, windows_of_series in wanted.items()
        for window in windows_of_series
    ]
    stored: defaultdict[SeriesKey, list[Point]] = defaultdict(list)
    limit = SQLITE_MAX_WINDOWS if is_sqlite(connection) else MAX_WINDOWS
    for start in range(0, len(windows), limit):
        for row in _select_points(connection, windows[start : start + limit]):
            agent_id, pool_id, at, value, flag, primary, replica, replica_at = row
            stored[agent_id, pool_id].append(
                Point(at, value, Flag(flag), primary, replica, replica_at)
            )
    return stored


def write_points(
    connection: Connection,
    points: Iterable[tuple[SeriesKey, Point]],
    deletes: Iterable[tuple[SeriesKey, datetime]],
    now: datetime,
) -> None:
    """Delete and upsert points of several series."""
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
    """Return the buffered observations of each series."""
    waiting: defaultdict[SeriesKey, list[BufferedObservation]] = defaultdict(list)
    if keys:
        rows = select_rows(
            connection, _BUFFERED, (_waiting.agent_id, _waiting.pool_id), sorted(keys)
        )
        for agent_id, pool_id, source, observed_at, value, received_at in rows:
            observation = Observation(Source(source), observed_at, value)
            waiting[agent_id, pool_id].append(BufferedObservation(observation, received_at))
    return waiting


def write_waiting(
    connection: Connection,
    buffered: Iterable[tuple[SeriesKey, Observation]],
    released: Iterable[tuple[SeriesKey, Observation]],
    now: datetime,
) -> None:
    """Delete released observations from the buffer and upsert buffered ones."""
    received_at = instant(now)
    keys = [(*key, observation.source, instant(observation.at)) for key, observation in released]
    delete_rows(connection, buffered_observations, keys)
    rows = [
        (
            *key,
            observation.source,
            instant(observation.at),
            price(connection, observation.price),
            received_at,
        )
        for key, observation in buffered
    ]
    upsert_rows(connection, buffered_observations, _BUFFERED_NAMES, rows)


def _bounds_values(connection: Connection, bounds: SeriesBounds | None) -> Sequence[Any]:
    if bounds is None:
        return (None, None, None, None, 0)
    return (
        instant(bounds.first_at),
        instant(bounds.latest_at),
        price(connection, bounds.latest_price),
        instant(bounds.latest_observed_at),
        ceil(bounds.widest_fill / timedelta(milliseconds=1)),
    )


def _select_points(
    connection: Connection, windows: Sequence[Sequence[Any]]
) -> Sequence[Sequence[Any]]:
    # A join with the rows of a JSON parameter would not limit the times that it reads by an index.
    condition = f"({_WINDOW.format(placeholder(connection))})"
    sql = (
        f"SELECT {', '.join(column.name for column in _POINT)} FROM pricing_reports "
        f"WHERE {' OR '.join([condition] * len(windows))} ORDER BY agent_id, pool_id, timestamp"
    )
    result = connection.exec_driver_sql(sql, tuple(value for row in windows for value in row))
    return decoded(result, _POINT)
