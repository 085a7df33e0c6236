"""Store the orphans that the sweep leaves running, and tell people of them.

The rows follow each sweep. People are told when an orphan joins those that are kept for the same
reason, and again each day while they are kept.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from sef.clock import iso
from sef.config import variable
from sef.db.statements import upsert
from sef.db.tables import kept_orphans
from sef.failover.instances.orphan_rules import Verdict
from sef.notifications.events import Event, write_events
from sef.terms import NotificationKind, plural

REMIND_EVERY = timedelta(days=1)
"""Time until people are told again of orphans that are still kept."""

MAX_NAMED = 20
"""Maximum instances that a message names; the details of the event name all."""

_columns = kept_orphans.c


@dataclass(frozen=True, slots=True)
class KeptOrphan:
    """An orphan that runs on, and why.

    Attributes:
        reason: why SEF keeps it, as a clause.
        advice: the next step of SEF, and what the operator can do, as sentences.
    """

    instance_id: str
    agent_id: str | None
    pool_id: str | None
    verdict: Verdict
    reason: str
    advice: str = ""


def store_kept(connection: Connection, kept: Sequence[KeptOrphan], now: datetime) -> None:
    """Store the orphans that a sweep keeps, instead of those of the sweep before, and tell of them.

    Two sweeps at once tell once: they wait for each other's rows, or conflict on a key.
    """
    stored = {row.instance_id: row for row in connection.execute(_all().with_for_update())}
    gone = stored.keys() - {orphan.instance_id for orphan in kept}
    if gone:
        connection.execute(delete(kept_orphans).where(_columns.instance_id.in_(sorted(gone))))
    rows = []
    due: defaultdict[Verdict, list[KeptOrphan]] = defaultdict(list)
    for orphan in kept:
        before = stored.get(orphan.instance_id)
        is_same = before is not None and before.verdict == orphan.verdict
        told_at = before.told_at if before is not None and is_same else None
        rows.append(
            {
                "instance_id": orphan.instance_id,
                "agent_id": orphan.agent_id,
                "pool_id": orphan.pool_id,
                "verdict": orphan.verdict,
                "reason": orphan.reason,
                "found_at": before.found_at if before is not None else now,
                "told_at": told_at,
            }
        )
        if told_at is None or abs(now - told_at) >= REMIND_EVERY:
            due[orphan.verdict].append(orphan)
    upsert(connection, kept_orphans, rows)
    told = [orphan for orphan in kept if orphan.verdict in due]
    if told:
        ids = [orphan.instance_id for orphan in told]
        connection.execute(
            update(kept_orphans).where(_columns.instance_id.in_(sorted(ids))).values(told_at=now)
        )
        write_events(connection, _events(told), now)


def needs_update(connection: Connection, kept: Sequence[KeptOrphan], now: datetime) -> bool:
    """Return True if `store_kept` would change something."""
    stored = {row.instance_id: row for row in connection.execute(_all())}
    if stored.keys() != {orphan.instance_id for orphan in kept}:
        return True
    return any(
        (before.verdict, before.reason) != (orphan.verdict, orphan.reason)
        or before.told_at is None
        or abs(now - before.told_at) >= REMIND_EVERY
        for orphan in kept
        for before in (stored[orphan.instance_id],)
    )


def kept_of(connection: Connection, agent_id: str) -> list[dict[str, Any]]:
    """Return the kept orphans of an agent, as answers show them."""
    rows = connection.execute(_all().where(_columns.agent_id == agent_id))
    return [
        {
            "instance_id": row.instance_id,
            "pool_id": row.pool_id,
            "reason": row.reason,
            "found_at": iso(row.found_at),
        }
        for row in rows
    ]


def count_kept(connection: Connection, agent_ids: Iterable[str]) -> dict[str, int]:
    """Return the number of kept orphans of each agent that has any."""
    rows = connection.execute(
        select(_columns.agent_id, func.count().label("orphans"))
        .where(_columns.agent_id.in_(sorted(agent_ids)))
        .group_by(_columns.agent_id)
    )
    return {row.agent_id: row.orphans for row in rows}


def _all() -> Any:
    return select(kept_orphans).order_by(_columns.instance_id)


def _events(told: Sequence[KeptOrphan]) -> list[Event]:
    by_verdict: defaultdict[Verdict, list[KeptOrphan]] = defaultdict(list)
    for orphan in told:
        by_verdict[orphan.verdict].append(orphan)
    unknown = by_verdict.pop(Verdict.UNKNOWN_LAUNCH, [])
    over_limit = by_verdict.pop(Verdict.OVER_LIMIT, [])
    by_verdict.pop(Verdict.HELD, None)  # the event about the unknown launches tells why
    events = []
    if unknown:
        events.append(_rows_outdated(unknown))
        # Part of the message above: the history of each agent has it without a second message.
        events += [_kept(orphan) for orphan in unknown if orphan.agent_id is not None]
    if over_limit:
        events.append(_limit_reached(over_limit))
    events += [
        _kept(orphan, NotificationKind.ALERT)
        for orphans in by_verdict.values()
        for orphan in orphans
    ]
    return events


def _rows_outdated(unknown: Sequence[KeptOrphan]) -> Event:
    verb = "runs" if len(unknown) == 1 else "run"
    count = plural(len(unknown), "instance")
    return Event(
        "rows_outdated",
        f"the database is older than EC2: {count} that SEF launched {verb}, and no row knows the "
        f"launch: {_names(unknown)}. The database was restored from a backup, or a second SEF uses "
        "a copy of it. SEF terminates no orphan until you have adopted or terminated each of them. "
        "To list them, with the command for each: python backend.py adopt",
        severity="error",
        details={"instances": {orphan.instance_id: orphan.agent_id for orphan in unknown}},
        notification=NotificationKind.ALERT,
    )


def _limit_reached(orphans: Sequence[KeptOrphan]) -> Event:
    limit = variable("max_terminations_per_run")
    return Event(
        "limit_reached",
        f"{orphans[0].reason}: {_names(orphans)}. SEF terminates none of them. If they are "
        "orphans, raise the limit, or terminate them yourself",
        severity="error",
        details={
            "limit": limit,
            "instances": {orphan.instance_id: orphan.agent_id for orphan in orphans},
        },
        notification=NotificationKind.ALERT,
    )


def _kept(orphan: KeptOrphan, notification: NotificationKind | None = None) -> Event:
    return Event(
        "orphan_kept",
        f"{orphan.instance_id} runs and is left running: {orphan.reason}. {orphan.advice}",
        agent_id=orphan.agent_id,
        severity="warning",
        details={"instance_id": orphan.instance_id, "verdict": orphan.verdict},
        notification=notification,
    )


def _names(orphans: Sequence[KeptOrphan]) -> str:
    names = [
        f"{orphan.instance_id} ({f'agent {orphan.agent_id}' if orphan.agent_id else 'no agent'})"
        for orphan in orphans[:MAX_NAMED]
    ]
    more = len(orphans) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
