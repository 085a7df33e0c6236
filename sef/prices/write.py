"""Write the reports of any number of series in one transaction.

For all series together: read the rows of the series and the windows that the plan needs, make the
plans, write the differences, and increment the versions of the rows. The versions detect
concurrent writers.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from sef.agents import learn_from_report
from sef.clock import iso
from sef.db.statements import insert_missing
from sef.db.tables import agents, price_series
from sef.identity import source_of
from sef.notifications.events import Event, write_events
from sef.prices.heard import Heard
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
    read_points,
    read_series,
    read_waiting,
    save_series,
    write_points,
    write_waiting,
)
from sef.prices.series import CleaningRules, Observation, Point, SeriesKey
from sef.terms import Flag, Source


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The results of reports that were written together."""

    outcomes: list[ReportResult]
    """The result of each report, in the order of the reports."""
    interpolated: dict[SeriesKey, int]
    """The number of points interpolated in each series."""


def write_reports(
    connection: Connection,
    reports: Sequence[Report],
    *,
    now: datetime,
    rules: CleaningRules,
    window: timedelta,
    heard: Heard,
) -> WriteResult:
    """Store reports and register new agents and series."""
    if not reports:
        return WriteResult([], {})
    written, reports = _write_reports(connection, reports, now=now, rules=rules, window=window)
    heard.record(connection, reports, now)
    return written


def _write_reports(
    connection: Connection,
    reports: Sequence[Report],
    *,
    now: datetime,
    rules: CleaningRules,
    window: timedelta,
) -> tuple[WriteResult, list[Report]]:
    """Store reports; return the results, and the reports with the source that SEF found."""
    arrivals: defaultdict[SeriesKey, list[Observation]] = defaultdict(list)
    positions = []
    keys = {report.series for report in reports}
    stored = read_series(connection, keys)
    if len(stored) < len(keys):
        _register(connection, [key for key in keys if key not in stored], now)
        stored = read_series(connection, keys)
    reports = [_with_source(report, stored[report.series][1]) for report in reports]
    for report in reports:
        positions.append((report.series, len(arrivals[report.series])))
        arrivals[report.series].append(report.observation)
    _fill_in_agent(connection, stored, reports, now)
    plans = _write(connection, stored, arrivals, now=now, rules=rules, window=window)
    result = WriteResult(
        outcomes=[plans[key].outcomes[index] for key, index in positions],
        interpolated={key: plan.interpolated for key, plan in plans.items()},
    )
    return result, reports


def write_one_by_one(
    connection: Connection,
    reports: Sequence[Report],
    *,
    now: datetime,
    rules: CleaningRules,
    window: timedelta,
    heard: Heard,
) -> list[tuple[ReportResult, int]]:
    """Store reports as if each had arrived alone.

    Returns:
        For each report its result and the number of points that it interpolated.
    """
    # Each round has at most one report of each series.
    count: Counter[SeriesKey] = Counter()
    rounds: defaultdict[int, list[int]] = defaultdict(list)
    for index, report in enumerate(reports):
        rounds[count[report.series]].append(index)
        count[report.series] += 1
    results = {}
    sourced: list[Report] = []
    for indexes in rounds.values():
        batch = [reports[index] for index in indexes]
        written, batch = _write_reports(connection, batch, now=now, rules=rules, window=window)
        sourced += batch
        for index, report, outcome in zip(indexes, batch, written.outcomes, strict=True):
            results[index] = (outcome, written.interpolated[report.series])
    heard.record(connection, sourced, now)
    return [results[index] for index in range(len(reports))]


def release_buffered(
    connection: Connection,
    keys: Sequence[SeriesKey],
    *,
    now: datetime,
    rules: CleaningRules,
    window: timedelta,
) -> None:
    """Store the observations of these series that have waited for `window`."""
    stored = read_series(connection, keys)
    no_arrivals: dict[SeriesKey, Sequence[Observation]] = dict.fromkeys(keys, ())
    _write(connection, stored, no_arrivals, now=now, rules=rules, window=window)


def _register(connection: Connection, keys: Sequence[SeriesKey], now: datetime) -> None:
    ids = sorted({agent_id for agent_id, _ in keys})
    known = set(connection.scalars(select(agents.c.id).where(agents.c.id.in_(ids))))
    new = [agent_id for agent_id in ids if agent_id not in known]
    insert_missing(
        connection,
        agents,
        [{"id": agent_id, "created_at": now, "updated_at": now} for agent_id in new],
    )
    write_events(
        connection,
        [
            Event("agent_registered", f"{agent_id} reports for the first time", agent_id)
            for agent_id in new
        ],
        now,
    )
    insert_missing(
        connection,
        price_series,
        [{"agent_id": agent_id, "pool_id": pool_id} for agent_id, pool_id in sorted(keys)],
    )


def _with_source(report: Report, reporter: Reporter) -> Report:
    """Return the report as the primary's or a replica's, by the instance that it names."""
    observation = report.observation
    source = source_of(
        observation.source,
        report.instance_id,
        observation.at,
        primary=reporter.instance_id,
        primary_since=reporter.primary_since,
        is_launched=reporter.launched_id is not None,
        standby=reporter.standby_id,
    )
    if source is observation.source:
        return report
    return replace(report, observation=replace(observation, source=source))


def _fill_in_agent(
    connection: Connection,
    stored: Mapping[SeriesKey, tuple[Series, Reporter]],
    reports: Iterable[Report],
    now: datetime,
) -> None:
    """Set an agent's instance and pool from its reports while they are unknown.

    Known values stay: a late report of a former primary must not undo a promotion.
    """
    learned = set()
    for report in reports:
        _, reporter = stored[report.series]
        is_new = reporter.instance_id is None and report.instance_id is not None
        claim = (report.agent_id, report.instance_id)
        if (
            report.observation.source is Source.PRIMARY
            and (is_new or reporter.pool_id is None)
            and claim not in learned
        ):
            learned.add(claim)
            learn_from_report(connection, *claim, report.pool_id, now)


def _write(
    connection: Connection,
    stored: Mapping[SeriesKey, tuple[Series, Reporter]],
    arrivals: Mapping[SeriesKey, Sequence[Observation]],
    *,
    now: datetime,
    rules: CleaningRules,
    window: timedelta,
) -> dict[SeriesKey, SeriesUpdate]:
    """Plan and write the updates of series.

    In a series without arrivals, only the overdue observations are stored.
    """
    waiting = read_waiting(
        connection, [key for key, (series, _) in stored.items() if series.waiting]
    )
    points = read_points(
        connection,
        {
            key: windows_to_read(series.bounds, waiting[key], arrivals[key], rules)
            for key, (series, _) in stored.items()
        },
    )
    plans, changed = {}, {}
    for key, (series, reporter) in stored.items():
        sources = {arrival.source for arrival in arrivals[key]}
        replica_heard_at = now if Source.REPLICA in sources else series.replica_heard_at
        plans[key] = plan_update(
            series.bounds,
            points[key],
            waiting[key],
            arrivals[key],
            replica_expected=replica_is_expected(reporter.ready_at, replica_heard_at, now),
            now=now,
            window=window,
            rules=rules,
        )
        changed[key] = Series(
            version=series.version + 1,
            bounds=plans[key].bounds,
            waiting=plans[key].waiting_count,
            replica_heard_at=replica_heard_at,
            received_at=now if sources else series.received_at,
        )
    save_series(connection, stored, changed)
    write_points(
        connection,
        [(key, point) for key, plan in plans.items() for point in plan.upserts],
        [(key, at) for key, plan in plans.items() for at in plan.deletes],
        now,
    )
    write_waiting(
        connection,
        [(key, buffered) for key, plan in plans.items() for buffered in plan.buffered],
        [(key, released) for key, plan in plans.items() for released in plan.released],
        now,
    )
    write_events(connection, _events(plans, rules), now)
    return plans


def _events(plans: Mapping[SeriesKey, SeriesUpdate], rules: CleaningRules) -> list[Event]:
    events = []
    for (agent_id, pool_id), plan in plans.items():
        events += [
            _divergence_event(agent_id, pool_id, point, rules)
            for point in plan.upserts
            if point.flag is Flag.DIVERGENT
        ]
        events += [_gap_event(agent_id, pool_id, gap) for gap in plan.wide_gaps]
    return events


def _divergence_event(agent_id: str, pool_id: str, point: Point, rules: CleaningRules) -> Event:
    return Event(
        "divergent_prices",
        f"The prices of the primary and the replica of {agent_id} in {pool_id} differ by more than "
        f"{rules.divergence_limit:.0%}; SEF stores the primary's price",
        agent_id,
        severity="warning",
        details={
            "pool_id": pool_id,
            "timestamp": iso(point.at),
            "primary": str(point.primary),
            "replica": str(point.replica),
        },
    )


def _gap_event(agent_id: str, pool_id: str, gap: Gap) -> Event:
    return Event(
        "price_gap",
        f"No price of {pool_id} for {(gap.end - gap.start).total_seconds():.0f} s; "
        "the gap is too wide to interpolate",
        agent_id,
        severity="warning",
        details={"pool_id": pool_id, "from": iso(gap.start), "to": iso(gap.end)},
    )
