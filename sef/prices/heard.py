"""Record which instances of an agent were heard, and when, with few statements.

The time of a report is the time of its observation: a report that a spool or a backfill delivers
late is no sign of life. A time in the future, which comes from a wrong clock, counts as now.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Connection, delete

from sef.db.database import after_commit
from sef.db.tables import agent_instances
from sef.prices.bulk import instant, upsert_latest
from sef.prices.parse import Report
from sef.terms import UNNAMED, Source

RENEWED_AFTER = timedelta(seconds=30)
"""Time by which a report must be later than the stored one to be stored."""

FORGOTTEN_AFTER = timedelta(days=30)
"""Time after its last report from which an instance that was never a primary is forgotten."""

MAX_KNOWN = 100_000
"""Maximum number of instances whose stored time a process remembers."""

_COLUMNS = ("agent_id", "instance_id", "heard_at")

InstanceKey = tuple[str, str]
"""An agent and an instance; `UNNAMED` for reports that name no instance."""


class Heard:
    """Store the instances that were heard, and remember what this process has stored.

    The stored times save statements only: a process that does not know them writes them again, and
    the row keeps the later time.
    """

    def __init__(self) -> None:
        self._stored: dict[InstanceKey, datetime] = {}

    def record(self, connection: Connection, reports: Iterable[Report], now: datetime) -> None:
        """Store the times of reports, unless they are hardly later than the stored ones.

        A replica's report without an instance says nothing about any known instance.
        """
        latest: dict[InstanceKey, datetime] = {}
        for report in reports:
            if report.instance_id is None and report.observation.source is Source.REPLICA:
                continue
            key = (report.agent_id, report.instance_id or UNNAMED)
            at = min(report.observation.at, now)
            latest[key] = max(latest.get(key, at), at)
        stored = self._stored
        renewed = {
            key: at
            for key, at in latest.items()
            if key not in stored or at - stored[key] >= RENEWED_AFTER
        }
        if not renewed:
            return
        rows = [(*key, instant(at)) for key, at in sorted(renewed.items())]
        upsert_latest(connection, agent_instances, _COLUMNS, rows)
        after_commit(connection, partial(self._remember, renewed))

    def _remember(self, renewed: dict[InstanceKey, datetime]) -> None:
        if len(self._stored) > MAX_KNOWN:
            self._stored.clear()
        self._stored.update(renewed)


def forget_instances(connection: Connection, now: datetime) -> None:
    """Delete instances that have not reported for long and were never a primary."""
    columns = agent_instances.c
    connection.execute(
        delete(agent_instances).where(
            columns.heard_at < now - FORGOTTEN_AFTER, columns.primary_until.is_(None)
        )
    )
