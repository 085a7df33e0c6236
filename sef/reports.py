"""Pricing reports: read, stored in the clean series they belong to, and answered."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from sef.clock import Clock
from sef.config import Settings
from sef.core.inputs import Refused, Report, parse_report
from sef.core.pricing import Rules
from sef.core.series import Outcome
from sef.shared_call import SharedCall
from sef.store import fleet, reads
from sef.store.database import Database
from sef.store.events import iso
from sef.store.prices import Written, release_buffered, write_each, write_reports
from sef.store.tables import PROCESSED_BY

Answer = dict[str, Any]

REPORTS_PER_TRANSACTION = 1000
SERIES_PER_RELEASE = 200


class Reports:
    """`rules` may be changed at any time; what comes after that goes by the new ones."""

    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self.rules: Rules = settings.rules
        self._database = database
        self._window = timedelta(seconds=settings.data_retention_window)
        self._clock = clock
        self._together = SharedCall(self._write_each, limit=settings.queue_limit)

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
                lambda c, now=now: release_buffered(  # type: ignore[misc]
                    c, now=now, rules=self.rules, window=self._window, limit=SERIES_PER_RELEASE
                )
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
            fleet.read_agent(connection, agent_id)
            return reads.series_points(
                connection, agent_id, pool_id=pool_id, start=start, end=end, limit=limit
            )

        return self._database.read(read)

    def _write_each(self, reports: Sequence[Report]) -> Sequence[tuple[Outcome, int]]:
        now = self._clock()
        return self._database.write(
            lambda c: write_each(c, reports, now=now, rules=self.rules, window=self._window),
            is_shared=len(reports) > 1,
        )

    def _write(self, reports: Sequence[Report]) -> Written:
        now = self._clock()
        return self._database.write(
            lambda c: write_reports(c, reports, now=now, rules=self.rules, window=self._window)
        )


def _kind(outcome: Outcome) -> str:
    if outcome.is_repeat:
        return "duplicates"
    return "accepted" if outcome.point else "buffered"


def _record(report: Report, outcome: Outcome) -> Answer:
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
