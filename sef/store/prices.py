"""Writing price series: one transaction takes reports of any number of series.

For each series: lock its row, read the neighbourhood if the pure core needs it, plan, write the
difference, and move the row's version on. The version is what makes it safe; the lock only saves
the loser of a race its work.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    and_,
    bindparam,
    delete,
    or_,
    select,
    tuple_,
    update,
)

from sef.core.buffer import Waiting, replica_is_expected
from sef.core.inputs import Report
from sef.core.pricing import Flag, Gap, Head, Neighbourhood, Observation, Point, Rules, Source
from sef.core.replica import Status
from sef.core.series import Outcome, Plan, plan, to_read
from sef.store.database import compare_and_swap, insert_missing, upsert
from sef.store.events import Event, iso, write_events
from sef.store.tables import (
    agents,
    buffered_observations,
    price_series,
    pricing_reports,
    replica_instances,
)

SeriesKey = tuple[str, str]
"""(agent_id, pool_id)"""

SLICE = 200
"""Rows named in one statement: SQLite's parser limits the depth of an OR."""


_MOVING = (
    "version",
    "waiting",
    "primary_heard_at",
    "replica_heard_at",
    "received_at",
    "first_at",
    "latest_at",
    "latest_price",
    "latest_observed_at",
)

# Built once: to build a statement costs more than to execute it.
_KEYS: BindParameter[Any] = bindparam("keys", expanding=True)
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_LOCK = (
    select(price_series)
    .where(tuple_(price_series.c.agent_id, price_series.c.pool_id).in_(_KEYS))
    # All writers lock in one order, so that they wait for each other instead of deadlocking.
    .order_by(price_series.c.agent_id, price_series.c.pool_id)
    .with_for_update()
)
_AGENTS = (
    select(agents.c.id, agents.c.instance_id, agents.c.pool_id, replica_instances.c.ready_at)
    .outerjoin(
        replica_instances,
        and_(
            replica_instances.c.live_agent_id == agents.c.id,
            replica_instances.c.status == Status.READY,
        ),
    )
    .where(agents.c.id.in_(_IDS))
)
_WAITING = select(buffered_observations).where(
    tuple_(buffered_observations.c.agent_id, buffered_observations.c.pool_id).in_(_KEYS)
)
_MOVE_ON = (
    update(price_series)
    .where(
        price_series.c.agent_id == bindparam("of_agent"),
        price_series.c.pool_id == bindparam("of_pool"),
        price_series.c.version == bindparam("read_version"),
    )
    .values({column: bindparam(column) for column in _MOVING})
)


@dataclass(frozen=True, slots=True)
class Written:
    outcomes: list[Outcome]
    """In the order of the reports."""
    interpolated: int


@dataclass(frozen=True, slots=True)
class _Series:
    """What is stored of a series, apart from its rows."""

    version: int
    head: Head | None
    waiting: int
    primary_heard_at: datetime | None
    replica_heard_at: datetime | None
    received_at: datetime | None


def write_reports(
    connection: Connection,
    reports: Sequence[Report],
    *,
    now: datetime,
    rules: Rules,
    window: timedelta,
) -> Written:
    """Store reports, registering agents and series that are new."""
    arrivals: defaultdict[SeriesKey, list[Observation]] = defaultdict(list)
    places = []
    for report in reports:
        key = (report.agent_id, report.pool_id)
        places.append((key, len(arrivals[key])))
        arrivals[key].append(report.observation)
    found = _lock(connection, arrivals)
    if len(found) < len(arrivals):
        _register(connection, [key for key in arrivals if key not in found], now)
        found = _lock(connection, arrivals)
    told = _read_agents(connection, {agent_id for agent_id, _ in found})
    _adopt(connection, told, reports, now)
    plans = _write(connection, found, told, arrivals, now=now, rules=rules, window=window)
    return Written(
        outcomes=[plans[key].outcomes[place] for key, place in places],
        interpolated=sum(made.interpolated for made in plans.values()),
    )


def release_buffered(
    connection: Connection, *, now: datetime, rules: Rules, window: timedelta, limit: int
) -> int:
    """Release what has waited for `window` in up to `limit` series; return how many series."""
    columns = buffered_observations.c
    overdue = (
        select(columns.agent_id, columns.pool_id)
        .where(columns.received_at <= now - window)
        .distinct()
        .limit(limit)
    )
    keys = [(row.agent_id, row.pool_id) for row in connection.execute(overdue)]
    found = _lock(connection, keys)
    told = _read_agents(connection, {agent_id for agent_id, _ in keys})
    nothing: dict[SeriesKey, Sequence[Observation]] = dict.fromkeys(keys, ())
    _write(connection, found, told, nothing, now=now, rules=rules, window=window)
    return len(keys)


def point_of(row: Any) -> Point:
    """A point from its row in pricing_reports."""
    return Point(
        row.timestamp,
        row.spot_price,
        Flag(row.data_quality_flag),
        row.primary_price,
        row.replica_price,
        row.replica_observed_at,
    )


def _lock(connection: Connection, keys: Iterable[SeriesKey]) -> dict[SeriesKey, _Series]:
    ordered = sorted(keys)
    found = {}
    for start in range(0, len(ordered), SLICE):
        for row in connection.execute(_LOCK, {"keys": ordered[start : start + SLICE]}):
            head = None
            if row.latest_at is not None:
                head = Head(row.first_at, row.latest_at, row.latest_price, row.latest_observed_at)
            found[row.agent_id, row.pool_id] = _Series(
                row.version,
                head,
                row.waiting,
                row.primary_heard_at,
                row.replica_heard_at,
                row.received_at,
            )
    return found


def _register(connection: Connection, keys: Sequence[SeriesKey], now: datetime) -> None:
    ids = sorted({agent_id for agent_id, _ in keys})
    known = set(connection.scalars(select(agents.c.id).where(agents.c.id.in_(ids))))
    new = [agent_id for agent_id in ids if agent_id not in known]
    insert_missing(
        connection, agents, [{"id": name, "created_at": now, "updated_at": now} for name in new]
    )
    write_events(
        connection,
        [Event("agent_registered", f"{name} reports for the first time", name) for name in new],
        now,
    )
    insert_missing(
        connection,
        price_series,
        [{"agent_id": agent_id, "pool_id": pool_id} for agent_id, pool_id in sorted(keys)],
    )


def _read_agents(connection: Connection, ids: Iterable[str]) -> dict[str, Any]:
    """What reports need of their agents: instance, pool, and since when a standby is ready."""
    ordered = sorted(ids)
    return {
        row.id: row
        for start in range(0, len(ordered), SLICE)
        for row in connection.execute(_AGENTS, {"ids": ordered[start : start + SLICE]})
    }


def _adopt(
    connection: Connection,
    told: Mapping[str, Any],
    reports: Iterable[Report],
    now: datetime,
) -> None:
    """Take an agent's instance and pool from its reports, while they are not known.

    Only then: a late report of a former primary must not undo a promotion.
    """
    taken = set()
    for report in reports:
        if report.observation.source is not Source.PRIMARY:
            continue
        row = told[report.agent_id]
        for column, known, value in (
            (agents.c.instance_id, row.instance_id, report.instance_id),
            (agents.c.pool_id, row.pool_id, report.pool_id),
        ):
            if known is None and value is not None and (row.id, column.name) not in taken:
                taken.add((row.id, column.name))
                connection.execute(
                    update(agents)
                    .where(agents.c.id == row.id, column.is_(None))
                    .values({column: value, "version": agents.c.version + 1, "updated_at": now})
                )


def _write(
    connection: Connection,
    found: Mapping[SeriesKey, _Series],
    told: Mapping[str, Any],
    arrivals: Mapping[SeriesKey, Sequence[Observation]],
    *,
    now: datetime,
    rules: Rules,
    window: timedelta,
) -> dict[SeriesKey, Plan]:
    waiting = _read_waiting(connection, [key for key, series in found.items() if series.waiting])
    stored = _read_points(
        connection,
        {
            key: to_read(series.head, waiting[key], arrivals[key], rules)
            for key, series in found.items()
        },
    )
    plans = {}
    for key, series in found.items():
        sources = {seen.source for seen in arrivals[key]}
        primary_heard_at = now if Source.PRIMARY in sources else series.primary_heard_at
        replica_heard_at = now if Source.REPLICA in sources else series.replica_heard_at
        plans[key] = plan(
            series.head,
            stored[key],
            waiting[key],
            arrivals[key],
            replica_expected=replica_is_expected(told[key[0]].ready_at, replica_heard_at, now),
            now=now,
            window=window,
            rules=rules,
        )
        _move_on(connection, key, series, plans[key], primary_heard_at, replica_heard_at, now)
    _write_points(connection, plans, now)
    _write_buffer(connection, plans, now)
    write_events(connection, _events(plans, rules), now)
    return plans


def _read_waiting(
    connection: Connection, keys: Sequence[SeriesKey]
) -> defaultdict[SeriesKey, list[Waiting]]:
    waiting: defaultdict[SeriesKey, list[Waiting]] = defaultdict(list)
    for start in range(0, len(keys), SLICE):
        for row in connection.execute(_WAITING, {"keys": keys[start : start + SLICE]}):
            seen = Observation(Source(row.source), row.observed_at, row.spot_price)
            waiting[row.agent_id, row.pool_id].append(Waiting(seen, row.received_at))
    return waiting


def _read_points(
    connection: Connection, wanted: Mapping[SeriesKey, Sequence[Neighbourhood]]
) -> defaultdict[SeriesKey, list[Point]]:
    columns = pricing_reports.c
    stretches = [
        and_(
            columns.agent_id == agent_id,
            columns.pool_id == pool_id,
            columns.timestamp.between(part.start, part.end),
        )
        for (agent_id, pool_id), parts in wanted.items()
        for part in parts
    ]
    stored: defaultdict[SeriesKey, list[Point]] = defaultdict(list)
    for start in range(0, len(stretches), SLICE):
        for row in connection.execute(
            select(pricing_reports)
            .where(or_(*stretches[start : start + SLICE]))
            .order_by(columns.agent_id, columns.pool_id, columns.timestamp)
        ):
            stored[row.agent_id, row.pool_id].append(point_of(row))
    return stored


def _move_on(
    connection: Connection,
    key: SeriesKey,
    series: _Series,
    made: Plan,
    primary_heard_at: datetime | None,
    replica_heard_at: datetime | None,
    now: datetime,
) -> None:
    head = made.head
    compare_and_swap(
        connection,
        _MOVE_ON,
        {
            "of_agent": key[0],
            "of_pool": key[1],
            "read_version": series.version,
            "version": series.version + 1,
            "waiting": made.waiting_count,
            "primary_heard_at": primary_heard_at,
            "replica_heard_at": replica_heard_at,
            "received_at": now if made.outcomes else series.received_at,
            "first_at": head and head.first_at,
            "latest_at": head and head.latest_at,
            "latest_price": head and head.latest_price,
            "latest_observed_at": head and head.latest_observed_at,
        },
    )


def _write_points(connection: Connection, plans: Mapping[SeriesKey, Plan], now: datetime) -> None:
    columns = pricing_reports.c
    for (agent_id, pool_id), made in plans.items():
        for start in range(0, len(made.deletes), SLICE):
            connection.execute(
                delete(pricing_reports).where(
                    columns.agent_id == agent_id,
                    columns.pool_id == pool_id,
                    columns.timestamp.in_(made.deletes[start : start + SLICE]),
                )
            )
    rows = [
        {
            "agent_id": agent_id,
            "pool_id": pool_id,
            "timestamp": point.at,
            "spot_price": point.price,
            "data_quality_flag": point.flag,
            "primary_price": point.primary,
            "replica_price": point.replica,
            "replica_observed_at": point.replica_at,
            "received_at": now,
        }
        for (agent_id, pool_id), made in plans.items()
        for point in made.upserts
    ]
    upsert(connection, pricing_reports, rows)


def _write_buffer(connection: Connection, plans: Mapping[SeriesKey, Plan], now: datetime) -> None:
    columns = buffered_observations.c
    for (agent_id, pool_id), made in plans.items():
        for seen in made.released:
            connection.execute(
                delete(buffered_observations).where(
                    columns.agent_id == agent_id,
                    columns.pool_id == pool_id,
                    columns.source == seen.source,
                    columns.observed_at == seen.at,
                )
            )
    rows = [
        {
            "agent_id": agent_id,
            "pool_id": pool_id,
            "source": seen.source,
            "observed_at": seen.at,
            "spot_price": seen.price,
            "received_at": now,
        }
        for (agent_id, pool_id), made in plans.items()
        for seen in made.buffered
    ]
    upsert(connection, buffered_observations, rows)


def _events(plans: Mapping[SeriesKey, Plan], rules: Rules) -> list[Event]:
    events = []
    for (agent_id, pool_id), made in plans.items():
        events += [
            _divergence_event(agent_id, pool_id, point, rules)
            for point in made.upserts
            if point.flag is Flag.DIVERGENT
        ]
        events += [_gap_event(agent_id, pool_id, gap) for gap in made.wide_gaps]
    return events


def _divergence_event(agent_id: str, pool_id: str, point: Point, rules: Rules) -> Event:
    return Event(
        "divergent_prices",
        f"primary and replica of {agent_id} differ by more than {rules.divergence_limit:.0%} "
        f"in {pool_id}: the primary's price stands",
        agent_id,
        "warning",
        {
            "pool_id": pool_id,
            "timestamp": iso(point.at),
            "primary": str(point.primary),
            "replica": str(point.replica),
        },
    )


def _gap_event(agent_id: str, pool_id: str, gap: Gap) -> Event:
    return Event(
        "price_gap",
        f"no price of {pool_id} for {(gap.end - gap.start).total_seconds():.0f} s, "
        "too long to interpolate",
        agent_id,
        "warning",
        {"pool_id": pool_id, "from": iso(gap.start), "to": iso(gap.end)},
    )
