"""Store pricing reports (single, in batches, from lines) and read the clean series of an agent."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Row, func, select

from sef.agents import read_agent
from sef.batching import Batcher
from sef.clock import Clock, iso
from sef.config import Settings, check
from sef.db.database import Database
from sef.db.tables import PROCESSED_BY, price_series, pricing_reports
from sef.errors import Refused, SefError
from sef.parsing import parse_bound, parse_count
from sef.prices.heard import Heard, forget_instances
from sef.prices.ingest import ReportResult
from sef.prices.overdue import release_overdue
from sef.prices.parse import Line, Report, parse_report
from sef.prices.series import CleaningRules
from sef.prices.write import WriteResult, write_one_by_one, write_reports
from sef.terms import Flag

Answer = dict[str, Any]

REPORTS_PER_TRANSACTION = 1000
"""Maximum number of reports of a batch in one transaction."""

LINES_PER_CHUNK = 1000
"""Number of lines of NDJSON or CSV that are stored together."""

MAX_SHOWN = 1000
"""Maximum number of rejected lines that are listed; the rest is only counted."""

COUNTED = ("accepted", "buffered", "duplicates", "interpolated")
"""Fields of an answer that are numbers of reports or points."""

QUALITY_WINDOW = timedelta(hours=24)
"""Time before an agent's newest point whose points the data quality counts."""


@dataclass(slots=True)
class LoadResult:
    """The result of the lines so far, each of which is committed or rejected."""

    line: int = 0
    """The number of lines so far."""
    end: int = 0
    """The offset of the next line, in bytes."""
    counts: Counter[str] = field(default_factory=Counter)
    rejected_total: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, number: int, reason: str, message: str) -> None:
        self.rejected_total += 1
        if len(self.rejected) < MAX_SHOWN:
            self.rejected.append({"line": number, "reason": reason, "message": message})

    def as_answer(self) -> dict[str, Any]:
        return {
            **{name: self.counts[name] for name in COUNTED},
            "rejected_total": self.rejected_total,
            "rejected": sorted(self.rejected, key=lambda entry: int(entry["line"])),
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "line": self.line,
            "end": self.end,
            "counts": dict(self.counts),
            "rejected_total": self.rejected_total,
            "rejected": self.rejected,
        }


class Reports:
    """Store pricing reports and show the series.

    `rules` may be replaced at any time. The new rules apply to later transactions.
    """

    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self.rules: CleaningRules = rules_of(settings)
        self._settings = settings
        self._database = database
        self._window = timedelta(seconds=settings.data_retention_window)
        self._clock = clock
        self._heard = Heard()
        self._batcher = Batcher(self._write_each, limit=settings.max_queued_reports)

    def change_settings(self, **changes: Any) -> None:
        """Change settings from which the rules of later transactions are made.

        Raises:
            ConfigurationError: the settings refuse a value.
        """
        self._settings = check(self._settings, **changes)
        self.rules = rules_of(self._settings)

    def take(self, agent_id: str, data_type: str, payload: Mapping[str, Any]) -> Answer:
        """Store a report; return its clean record, or the reason of its rejection."""
        if data_type != "pricing":
            return _rejected(Refused("unknown_data_type", "data_type must be pricing."))
        try:
            report = parse_report(agent_id, payload, self._clock())
        except Refused as refused:
            return _rejected(refused)
        outcome, interpolated = self._batcher.submit(report)
        return _record(report, outcome) | {"interpolated": interpolated}

    def take_batch(self, reports: Sequence[Any]) -> Answer:
        """Store many reports. A bad report is rejected alone, and the other reports are stored."""
        now = self._clock()
        parsed: list[Report] = []
        rejected = []
        for index, entry in enumerate(reports):
            try:
                agent_id = entry.get("agent_id") if isinstance(entry, Mapping) else None
                parsed.append(parse_report(agent_id, entry, now))
            except Refused as refused:
                rejected.append(
                    {"index": index, "reason": refused.reason, "message": refused.message}
                )
        counts = dict.fromkeys(COUNTED, 0)
        for start in range(0, len(parsed), REPORTS_PER_TRANSACTION):
            written = self._write(parsed[start : start + REPORTS_PER_TRANSACTION])
            counts["interpolated"] += sum(written.interpolated.values())
            for outcome in written.outcomes:
                counts[_kind(outcome)] += 1
        return {**counts, "rejected": rejected}

    def release_overdue(self) -> int:
        """Store the observations that have waited long enough for the other half of their pair.

        Also forget instances that stopped reporting long ago and were never a primary.

        Returns:
            The number of series with such observations.
        """
        self._database.write(forget_instances, self._clock())
        return release_overdue(self._database, self._clock, self.rules, self._window)

    def series(
        self,
        agent_id: str,
        *,
        pool_id: str | None,
        start: datetime | None,
        end: datetime | None,
        limit: int,
    ) -> Sequence[Answer]:
        """Return the clean points of an agent, oldest first.

        Raises:
            AgentNotFound: no agent has this id.
            Refused: `invalid_from`, `invalid_to` or `invalid_limit`.
        """
        span = {"start": parse_bound(start, "from"), "end": parse_bound(end, "to")}
        size = parse_count(limit, "limit")
        return self._database.read(_series_points, agent_id, pool_id=pool_id, limit=size, **span)

    def _write_each(self, reports: Sequence[Report]) -> Sequence[tuple[ReportResult, int]]:
        write = self._database.write_shared if len(reports) > 1 else self._database.write
        return write(write_one_by_one, reports, **self._how())

    def _write(self, reports: Sequence[Report]) -> WriteResult:
        return self._database.write(write_reports, reports, **self._how())

    def _how(self) -> dict[str, Any]:
        how = {"now": self._clock(), "rules": self.rules, "window": self._window}
        return how | {"heard": self._heard}


def rules_of(settings: Settings) -> CleaningRules:
    """Return the rules of a clean series from the settings."""
    return CleaningRules(
        pairing_tolerance=timedelta(seconds=settings.pairing_tolerance_seconds),
        divergence_limit=Decimal(str(settings.divergence_limit)),
        gap_detection_threshold=timedelta(seconds=settings.gap_detection_threshold),
        interpolation_max_gap=timedelta(seconds=settings.interpolation_max_gap),
        interpolation_step=timedelta(seconds=settings.interpolation_step_seconds),
        interpolation_method=settings.interpolation_method,
    )


def load(
    lines: Iterable[Line],
    parse: Callable[[Line], Any],
    process_batch: Callable[[Sequence[Any]], dict[str, Any]],
    tally: LoadResult,
) -> Iterator[LoadResult]:
    """Store the reports of lines in chunks; yield `tally` after each committed chunk.

    Args:
        lines: lines after the first `tally.line` lines of a text.
        parse: returns the report of a line, or raises Refused.
        process_batch: stores reports, as `Reports.take_batch` does.
        tally: result of the lines so far, which is updated.

    Raises:
        SefError: the database is unavailable. Chunks that were yielded before are committed; their
            lines may be sent again without effect.
    """
    chunk: list[Any] = []
    numbers: list[int] = []
    line = None
    for line in lines:
        if not line.is_blank:
            try:
                chunk.append(parse(line))
                numbers.append(line.number)
            except Refused as refused:
                tally.reject(line.number, refused.reason, refused.message)
        if line.number - tally.line >= LINES_PER_CHUNK:
            _store_chunk(chunk, numbers, line, process_batch, tally)
            chunk, numbers = [], []
            yield tally
    if line is not None:
        _store_chunk(chunk, numbers, line, process_batch, tally)
    yield tally


def data_quality(connection: Connection, agent_id: str) -> dict[str, Any]:
    """Return the number of points of each flag in the 24 hours before an agent's newest point."""
    series = price_series.c
    latest, waiting = connection.execute(
        select(func.max(series.latest_at), func.coalesce(func.sum(series.waiting), 0)).where(
            series.agent_id == agent_id
        )
    ).one()
    counts = dict.fromkeys(Flag, 0)
    if latest is not None:
        columns = pricing_reports.c
        pool_ids = select(series.pool_id).where(series.agent_id == agent_id)
        rows = connection.execute(
            select(columns.data_quality_flag, func.count())
            .where(
                columns.agent_id == agent_id,
                columns.pool_id.in_(pool_ids),
                columns.timestamp > latest - QUALITY_WINDOW,
            )
            .group_by(columns.data_quality_flag)
        )
        counts |= {Flag(flag): count for flag, count in rows}
    return {
        "window_seconds": int(QUALITY_WINDOW.total_seconds()),
        "latest_timestamp": iso(latest),
        "points": sum(counts.values()),
        **{str(flag): count for flag, count in counts.items()},
        "buffered": int(waiting),
    }


def _kind(outcome: ReportResult) -> str:
    if outcome.is_repeat:
        return "duplicates"
    return "accepted" if outcome.point else "buffered"


def _record(report: Report, outcome: ReportResult) -> Answer:
    point = outcome.point
    return {
        "status": "success" if point else "buffered",
        "agent_id": report.agent_id,
        "pool_id": report.pool_id,
        "spot_price": float(point.price if point else report.observation.price),
        "timestamp": iso(point.at if point else report.observation.at),
        "data_quality_flag": point.flag.value if point else None,
        "processed_by": PROCESSED_BY,
    }


def _rejected(refused: Refused) -> Answer:
    return {"status": "rejected", "reason": refused.reason, "message": refused.message}


def _store_chunk(
    chunk: list[Any],
    numbers: list[int],
    last: Line,
    process_batch: Callable[[Sequence[Any]], dict[str, Any]],
    tally: LoadResult,
) -> None:
    try:
        answer = process_batch(chunk)
    except SefError as error:
        error.message += f" The first {tally.line} lines are stored; you may send them again."
        raise
    for name in COUNTED:
        tally.counts[name] += answer[name]
    for entry in answer["rejected"]:
        tally.reject(numbers[entry["index"]], entry["reason"], entry["message"])
    tally.line, tally.end = last.number, last.end


def _series_points(
    connection: Connection,
    agent_id: str,
    *,
    pool_id: str | None,
    start: datetime | None,
    end: datetime | None,
    limit: int,
) -> Sequence[dict[str, Any]]:
    """Return the oldest points of one series, or of all series of an agent, oldest first.

    `start` and `end` are included.
    """
    read_agent(connection, agent_id)
    pool_ids = [pool_id] if pool_id is not None else _reported_pools(connection, agent_id)
    columns = pricing_reports.c
    rows: list[Row[Any]] = []
    # One SELECT for each series reads in the order of the primary key; one SELECT for all series
    # of an agent would have to sort.
    for one_pool_id in pool_ids:
        statement = select(pricing_reports).where(
            columns.agent_id == agent_id, columns.pool_id == one_pool_id
        )
        if start is not None:
            statement = statement.where(columns.timestamp >= start)
        if end is not None:
            statement = statement.where(columns.timestamp <= end)
        rows += connection.execute(statement.order_by(columns.timestamp).limit(limit)).all()
    rows.sort(key=lambda row: (row.timestamp, row.pool_id))
    return [
        {
            "timestamp": iso(row.timestamp),
            "pool_id": row.pool_id,
            "spot_price": float(row.spot_price),
            "data_quality": row.data_quality_flag,
        }
        for row in rows[:limit]
    ]


def _reported_pools(connection: Connection, agent_id: str) -> Sequence[str]:
    columns = price_series.c
    return connection.scalars(select(columns.pool_id).where(columns.agent_id == agent_id)).all()
