"""Writing price series: one transaction takes reports of any number of series.

For all series together: read their rows, and the neighbourhoods where the pure core needs them,
plan, write the differences, and move the rows' versions on. The version is what makes it safe.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, update

from sef.clock import iso
from sef.db.statements import insert_missing
from sef.db.tables import agents, buffered_observations, price_series
from sef.notifications.events import Event, write_events
from sef.prices.ingest import (
    ReportResult,
    SeriesUpdate,
    plan_update,
    replica_is_expected,
    windows_to_read,
)
from sef.prices.merge import Gap
from sef.prices.parse import Report
from sef.prices.rows import (
    Reporter,
    Series,
    SeriesKey,
    read_points,
    read_series,
    read_waiting,
    save_series,
    write_points,
    write_waiting,
)
from sef.prices.series import CleaningRules, Observation, Point
from sef.terms import Flag, Source


@dataclass(frozen=True, slots=True)
class WriteResult:
    outcomes: list[ReportResult]
    """In the order of the reports."""
    interpolated: dict[SeriesKey, int]
    """How many points were filled in, for each series."""


def write_reports(
    connection: Connection,
    reports: Sequence[Report],
    *,
    now: datetime,
    rules: CleaningRules,
    window: timedelta,
) -> WriteResult:
    """Store reports, registering agents and series that are new."""
    if not reports:
        return WriteResult([], {})
    arrivals: defaultdict[SeriesKey, list[Observation]] = defaultdict(list)
    places = []
    for report in reports:
        places.append((report.series, len(arrivals[report.series])))
        arrivals[report.series].append(report.observation)
    found = read_series(connection, arrivals)
    if len(found) < len(arrivals):
        _register(connection, [key for key in arrivals if key not in found], now)
        found = read_series(connection, arrivals)
    _fill_in_agent(connection, found, reports, now)
    plans = _write(connection, found, arrivals, now=now, rules=rules, window=window)
    return WriteResult(
        outcomes=[plans[key].outcomes[place] for key, place in places],
        interpolated={key: made.interpolated for key, made in plans.items()},
    )


def write_one_by_one(
    connection: Connection,
    reports: Sequence[Report],
    *,
    now: datetime,
    rules: CleaningRules,
    window: timedelta,
) -> list[tuple[ReportResult, int]]:
    """Store reports as if each came alone: what became of it, and how many points it filled in."""
    seen: Counter[SeriesKey] = Counter()
    rounds: defaultdict[int, list[int]] = defaultdict(list)
    for place, report in enumerate(reports):
        rounds[seen[report.series]].append(place)
        seen[report.series] += 1
    became = {}
    # Of each series one report in a round.
    for places in rounds.values():
        some = [reports[place] for place in places]
        written = write_reports(connection, some, now=now, rules=rules, window=window)
        for place, report, outcome in zip(places, some, written.outcomes, strict=True):
            became[place] = (outcome, written.interpolated[report.series])
    return [became[place] for place in range(len(reports))]


def release_buffered(
    connection: Connection, *, now: datetime, rules: CleaningRules, window: timedelta, limit: int
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
    if not keys:
        return 0
    found = read_series(connection, keys)
    nothing: dict[SeriesKey, Sequence[Observation]] = dict.fromkeys(keys, ())
    _write(connection, found, nothing, now=now, rules=rules, window=window)
    return len(keys)


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


def _fill_in_agent(
    connection: Connection,
    found: Mapping[SeriesKey, tuple[Series, Reporter]],
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
        _, reporter = found[report.series]
        for column, known, value in (
            (agents.c.instance_id, reporter.instance_id, report.instance_id),
            (agents.c.pool_id, reporter.pool_id, report.pool_id),
        ):
            adopted = (report.agent_id, column.name)
            if known is None and value is not None and adopted not in taken:
                taken.add(adopted)
                connection.execute(
                    update(agents)
                    .where(agents.c.id == report.agent_id, column.is_(None))
                    .values({column: value, "version": agents.c.version + 1, "updated_at": now})
                )


def _write(
    connection: Connection,
    found: Mapping[SeriesKey, tuple[Series, Reporter]],
    arrivals: Mapping[SeriesKey, Sequence[Observation]],
    *,
    now: datetime,
    rules: CleaningRules,
    window: timedelta,
) -> dict[SeriesKey, SeriesUpdate]:
    waiting = read_waiting(
        connection, [key for key, (series, _) in found.items() if series.waiting]
    )
    stored = read_points(
        connection,
        {
            key: windows_to_read(series.head, waiting[key], arrivals[key], rules)
            for key, (series, _) in found.items()
        },
    )
    plans, become = {}, {}
    for key, (series, reporter) in found.items():
        sources = {seen.source for seen in arrivals[key]}
        primary_heard_at = now if Source.PRIMARY in sources else series.primary_heard_at
        replica_heard_at = now if Source.REPLICA in sources else series.replica_heard_at
        plans[key] = made = plan_update(
            series.head,
            stored[key],
            waiting[key],
            arrivals[key],
            replica_expected=replica_is_expected(reporter.ready_at, replica_heard_at, now),
            now=now,
            window=window,
            rules=rules,
        )
        become[key] = Series(
            series.version + 1,
            made.head,
            made.waiting_count,
            primary_heard_at,
            replica_heard_at,
            now if sources else series.received_at,
        )
    save_series(connection, found, become)
    write_points(
        connection,
        [(key, point) for key, made in plans.items() for point in made.upserts],
        [(key, at) for key, made in plans.items() for at in made.deletes],
        now,
    )
    write_waiting(
        connection,
        [(key, seen) for key, made in plans.items() for seen in made.buffered],
        [(key, seen) for key, made in plans.items() for seen in made.released],
        now,
    )
    write_events(connection, _events(plans, rules), now)
    return plans


def _events(plans: Mapping[SeriesKey, SeriesUpdate], rules: CleaningRules) -> list[Event]:
    events = []
    for (agent_id, pool_id), made in plans.items():
        events += [
            _divergence_event(agent_id, pool_id, point, rules)
            for point in made.upserts
            if point.flag is Flag.DIVERGENT
        ]
        events += [_gap_event(agent_id, pool_id, gap) for gap in made.wide_gaps]
    return events


def _divergence_event(agent_id: str, pool_id: str, point: Point, rules: CleaningRules) -> Event:
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
