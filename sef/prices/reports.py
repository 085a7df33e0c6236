"""Pricing reports: read, stored in the clean series they belong to, and answered."""

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
from sef.config import Settings
from sef.db.database import Database
from sef.db.tables import PROCESSED_BY, price_series, pricing_reports
from sef.errors import Refused, SefError
from sef.prices.ingest import ReportResult
from sef.prices.parse import Line, Report, parse_report
from sef.prices.series import CleaningRules
from sef.prices.write import WriteResult, release_buffered, write_one_by_one, write_reports
from sef.terms import Flag

Answer = dict[str, Any]

REPORTS_PER_TRANSACTION = 1000
SERIES_PER_RELEASE = 200


def rules_of(settings: Settings) -> CleaningRules:
    """Return the rules of a clean series that the settings ask for."""
    return CleaningRules(
        pairing_tolerance=timedelta(seconds=settings.pairing_tolerance_seconds),
        divergence_limit=Decimal(str(settings.divergence_limit)),
        gap_detection_threshold=timedelta(seconds=settings.gap_detection_threshold),
        interpolation_max_gap=timedelta(seconds=settings.interpolation_max_gap),
        interpolation_step=timedelta(seconds=settings.interpolation_step_seconds),
        interpolation_method=settings.interpolation_method,
    )


class Reports:
    """`rules` may be changed at any time; what comes after that goes by the new ones."""

    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self.rules: CleaningRules = rules_of(settings)
        self._database = database
        self._window = timedelta(seconds=settings.data_retention_window)
        self._clock = clock
        self._together = Batcher(self._write_each, limit=settings.max_queued_reports)

    def take(self, agent_id: str, data_type: str, payload: Mapping[str, Any]) -> Answer:
        """Store one report; its clean record, or why it was refused."""
        if data_type != "pricing":
            return _rejected(Refused("unknown_data_type", "data_type must be pricing."))
        try:
            report = parse_report(agent_id, payload, self._clock())
        except Refused as refused:
            return _rejected(refused)
        outcome, interpolated = self._together.submit(report)
        return _record(report, outcome) | {"interpolated": interpolated}

    def take_batch(self, reports: Sequence[Any]) -> Answer:
        """Store many reports; a bad one is refused alone."""
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
        counts = {"accepted": 0, "buffered": 0, "duplicates": 0, "interpolated": 0}
        for start in range(0, len(parsed), REPORTS_PER_TRANSACTION):
            written = self._write(parsed[start : start + REPORTS_PER_TRANSACTION])
            counts["interpolated"] += sum(written.interpolated.values())
            for outcome in written.outcomes:
                counts[_kind(outcome)] += 1
        return {**counts, "rejected": rejected}

    def release_overdue(self) -> int:
        """Store what has waited long enough for its other half; how many series that touched."""
        released = 0
        while True:
            now = self._clock()
            count = self._database.write(
                release_buffered,
                now=now,
                rules=self.rules,
                window=self._window,
                limit=SERIES_PER_RELEASE,
            )
            released += count
            if count < SERIES_PER_RELEASE:
                return released

    def series(
        self,
        agent_id: str,
        *,
        pool_id: str | None,
        start: datetime | None,
        end: datetime | None,
        limit: int,
    ) -> Sequence[Answer]:
        """The clean points of an agent, oldest first.

        Raises:
            AgentNotFound: there is no such agent.
        """

        def read(connection: Connection) -> Sequence[Answer]:
            read_agent(connection, agent_id)
            return series_points(
                connection, agent_id, pool_id=pool_id, start=start, end=end, limit=limit
            )

        return self._database.read(read)

    def _write_each(self, reports: Sequence[Report]) -> Sequence[tuple[ReportResult, int]]:
        now = self._clock()
        if len(reports) > 1:
            return self._database.write_shared(
                write_one_by_one, reports, now=now, rules=self.rules, window=self._window
            )
        return self._database.write(
            write_one_by_one, reports, now=now, rules=self.rules, window=self._window
        )

    def _write(self, reports: Sequence[Report]) -> WriteResult:
        now = self._clock()
        return self._database.write(
            write_reports, reports, now=now, rules=self.rules, window=self._window
        )


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


REPORTS_AT_ONCE = 1000
MAX_SHOWN = 1000
"""How many refused lines are told one by one; of the rest, how many there are."""

COUNTED = ("accepted", "buffered", "duplicates", "interpolated")


@dataclass(slots=True)
class LoadResult:
    """What has become of the lines so far, all of which are committed or refused."""

    line: int = 0
    end: int = 0
    """Where the next line begins, in bytes."""
    counts: Counter[str] = field(default_factory=Counter)
    rejected_total: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, number: int, reason: str, message: str) -> None:
        self.rejected_total += 1
        if len(self.rejected) < MAX_SHOWN:
            self.rejected.append({"line": number, "reason": reason, "message": message})

    def as_answer(self) -> dict[str, Any]:
        return {
            **{name: self.counts[name] for name in COUNTED},
            "rejected_total": self.rejected_total,
            "rejected": sorted(self.rejected, key=lambda one: int(one["line"])),
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "line": self.line,
            "end": self.end,
            "counts": dict(self.counts),
            "rejected_total": self.rejected_total,
            "rejected": self.rejected,
        }


def load(
    lines: Iterable[Line],
    parse: Callable[[Line], Any],
    process_batch: Callable[[Sequence[Any]], dict[str, Any]],
    tally: LoadResult,
) -> Iterator[LoadResult]:
    """Store the reports of lines; yields the tally when some more are committed, and at the end.

    Raises:
        SefError: the database is away. What was yielded before is committed, and may come again.
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
                tally.refuse(line.number, refused.reason, refused.message)
        if line.number - tally.line >= REPORTS_AT_ONCE:
            _store(chunk, numbers, line, process_batch, tally)
            chunk, numbers = [], []
            yield tally
    if line is not None:
        _store(chunk, numbers, line, process_batch, tally)
    yield tally


def _store(
    chunk: list[Any],
    numbers: list[int],
    last: Line,
    process_batch: Callable[[Sequence[Any]], dict[str, Any]],
    tally: LoadResult,
) -> None:
    try:
        told = process_batch(chunk)
    except SefError as error:
        error.message += f" The first {tally.line} lines are stored; they may be sent again."
        raise
    for name in COUNTED:
        tally.counts[name] += told[name]
    for one in told["rejected"]:
        tally.refuse(numbers[one["index"]], one["reason"], one["message"])
    tally.line, tally.end = last.number, last.end


QUALITY_WINDOW = timedelta(hours=24)


def data_quality(connection: Connection, agent_id: str) -> dict[str, Any]:
    """How an agent's points of the last 24 hours came about, counted back from its newest."""
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


def series_points(
    connection: Connection,
    agent_id: str,
    *,
    pool_id: str | None,
    start: datetime | None,
    end: datetime | None,
    limit: int,
) -> Sequence[dict[str, Any]]:
    """The points of one series, or of all of an agent's, oldest first; both ends included."""
    pools = [pool_id] if pool_id is not None else _pools_reported(connection, agent_id)
    columns = pricing_reports.c
    found: list[Row[Any]] = []
    # Each series is in order in the primary key; all of an agent's together would be sorted.
    for pool in pools:
        statement = select(pricing_reports).where(
            columns.agent_id == agent_id, columns.pool_id == pool
        )
        if start is not None:
            statement = statement.where(columns.timestamp >= start)
        if end is not None:
            statement = statement.where(columns.timestamp <= end)
        found += connection.execute(statement.order_by(columns.timestamp).limit(limit)).all()
    found.sort(key=lambda row: (row.timestamp, row.pool_id))
    return [
        {
            "timestamp": iso(row.timestamp),
            "pool_id": row.pool_id,
            "spot_price": float(row.spot_price),
            "data_quality": row.data_quality_flag,
        }
        for row in found[:limit]
    ]


def _pools_reported(connection: Connection, agent_id: str) -> Sequence[str]:
    columns = price_series.c
    return connection.scalars(select(columns.pool_id).where(columns.agent_id == agent_id)).all()
