"""The outbox: what people are to be told, in the transaction of what it tells of.

A notification is written without knowing the channels. It is dispatched to those of the settings
later, one delivery for each, and every delivery has a fate of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, delete, exists, func, select, update

from sef.db.statements import insert_missing
from sef.db.tables import incidents, notification_deliveries, notifications
from sef.notifications.messages import body, severity_of, should_send, title
from sef.terms import NotificationKind, NotificationSeverity

CLAIM_DURATION = timedelta(seconds=120)
"""How long one worker may take to send a message, before another takes it to have died."""
FORGOTTEN = timedelta(days=1)
"""After which a message for a channel that the settings name no more is given up."""
DISPATCHED_AT_ONCE = 200
THREADS_AT_ONCE = 100

OF_DELIVERY = (
    "id",
    "channel",
    "thread",
    "attempts",
    "next_at",
    "claimed_until",
    "version",
)

_notes = notifications.c
_deliveries = notification_deliveries.c


@dataclass(frozen=True, slots=True)
class Notification:
    """What people are to be told."""

    kind: NotificationKind
    event_type: str
    message: str
    agent_id: str | None = None
    incident_id: str | None = None
    severity: Literal["info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way to one channel."""

    id: int
    channel: str
    thread: str
    attempts: int
    next_at: datetime
    claimed_until: datetime | None
    version: int
    incident_id: str | None
    agent_id: str | None
    kind: NotificationKind
    severity: NotificationSeverity
    title: str
    body: str

    def is_claimed(self, now: datetime) -> bool:
        # A claim from far ahead is one of a wrong clock.
        return (
            self.claimed_until is not None and now < self.claimed_until <= now + 2 * CLAIM_DURATION
        )


def notify(connection: Connection, notes: Sequence[Notification], now: datetime) -> None:
    """Have people told, once this transaction is committed.

    Of an incident there is one message for each kind, however often it is asked for. Without an
    incident there is one for each agent, event type and hour.
    """
    rows = [
        {
            "thread": note.incident_id
            or f"{note.event_type}:{note.agent_id or ''}:{now:%Y-%m-%dT%H}",
            "kind": note.kind,
            "incident_id": note.incident_id,
            "agent_id": note.agent_id,
            "severity": severity_of(note.kind, note.severity),
            "title": title(note.agent_id, note.incident_id, note.event_type),
            "body": body(note.kind, note.message, now, note.agent_id, note.incident_id),
            "created_at": now,
        }
        for note in notes
    ]
    insert_missing(connection, notifications, rows)


def dispatch(
    connection: Connection, channels: Sequence[str], least: NotificationSeverity, now: datetime
) -> int:
    """Put what was written since the last time before the channels; returns how many it was."""
    fresh = connection.execute(
        select(notifications)
        .where(_notes.dispatched_at.is_(None))
        .order_by(_notes.id)
        .limit(DISPATCHED_AT_ONCE)
    ).all()
    if not fresh:
        return 0
    if channels:
        threads = {note.thread for note in fresh}
        begun = set(
            connection.scalars(
                select(_deliveries.thread).where(_deliveries.thread.in_(threads)).distinct()
            )
        )
        rows = []
        for note in fresh:
            if should_send(
                NotificationSeverity(note.severity), least, thread_begun=note.thread in begun
            ):
                begun.add(note.thread)
                rows += [
                    {
                        "notification_id": note.id,
                        "channel": channel,
                        "thread": note.thread,
                        "status": "pending",
                        "next_at": now,
                    }
                    for channel in channels
                ]
        insert_missing(connection, notification_deliveries, rows)
    connection.execute(
        update(notifications)
        .where(_notes.id.in_([note.id for note in fresh]), _notes.dispatched_at.is_(None))
        .values(dispatched_at=now)
    )
    return len(fresh)


def due_threads(connection: Connection, channel: str, now: datetime) -> Sequence[str]:
    """The threads in which a channel has something to try now, the oldest first."""
    return connection.scalars(
        select(_deliveries.thread)
        .where(
            _deliveries.channel == channel,
            _deliveries.status == "pending",
            _deliveries.next_at <= now,
        )
        .group_by(_deliveries.thread)
        .order_by(func.min(_deliveries.notification_id))
        .limit(THREADS_AT_ONCE)
    ).all()


def pending(connection: Connection, channel: str, thread: str) -> list[Delivery]:
    """What a thread still has to send on a channel, in order."""
    rows = connection.execute(
        select(
            *(_deliveries[name] for name in OF_DELIVERY),
            _notes.incident_id,
            _notes.agent_id,
            _notes.kind,
            _notes.severity,
            _notes.title,
            _notes.body,
        )
        .join(notifications, _notes.id == _deliveries.notification_id)
        .where(
            _deliveries.channel == channel,
            _deliveries.thread == thread,
            _deliveries.status == "pending",
        )
        .order_by(_deliveries.notification_id)
    )
    return [_delivery(row._mapping) for row in rows]


def claim(connection: Connection, delivery: Delivery, now: datetime) -> bool:
    """Take a delivery to send it; False if somebody else was first."""
    return _change(
        connection,
        delivery.id,
        delivery.version,
        attempts=delivery.attempts + 1,
        claimed_until=now + CLAIM_DURATION,
        # Whoever takes it to be abandoned tries it then.
        next_at=now + CLAIM_DURATION,
    )


def finish(
    connection: Connection,
    delivery: Delivery,
    status: str,
    *,
    error: str | None,
    sent_at: datetime | None = None,
    next_at: datetime | None = None,
) -> bool:
    """Write down how a claimed delivery went; False if it was taken over in between."""
    values: dict[str, Any] = {"status": status, "claimed_until": None, "error": error}
    if sent_at is not None:
        values["sent_at"] = sent_at
    if next_at is not None:
        values["next_at"] = next_at
    return _change(connection, delivery.id, delivery.version + 1, **values)


def fail_removed_channels(
    connection: Connection, channels: Sequence[str], now: datetime
) -> Sequence[str]:
    """Fail what has waited long for channels that the settings name no more; returns which."""
    waiting = (
        _deliveries.status == "pending",
        _deliveries.channel.not_in(channels),
        _deliveries.next_at <= now - FORGOTTEN,
    )
    found = connection.scalars(select(_deliveries.channel).where(*waiting).distinct()).all()
    if found:
        connection.execute(
            update(notification_deliveries)
            .where(*waiting)
            .values(
                status="failed",
                error="SEF_NOTIFICATION_URLS does not name this channel any more",
                version=_deliveries.version + 1,
            )
        )
    return found


def delete_old(connection: Connection, before: datetime, limit: int) -> int:
    """Delete the oldest messages from before then that nobody waits for; returns how many.

    Those of an incident that is not over stay: they keep it from being told twice.
    """
    incident = incidents.c
    found = connection.scalars(
        select(_notes.id)
        .where(
            _notes.dispatched_at < before,
            ~exists().where(
                _deliveries.notification_id == _notes.id, _deliveries.status == "pending"
            ),
            ~exists().where(incident.id == _notes.incident_id, incident.open_agent_id.is_not(None)),
        )
        .order_by(_notes.dispatched_at, _notes.id)
        .limit(limit)
    ).all()
    if found:
        connection.execute(
            delete(notification_deliveries).where(_deliveries.notification_id.in_(found))
        )
        connection.execute(delete(notifications).where(_notes.id.in_(found)))
    return len(found)


def of_incident(connection: Connection, incident_id: str) -> list[dict[str, Any]]:
    """What was told of an incident, in order, and how it went on each channel."""
    rows = connection.execute(
        select(
            _notes.id,
            _notes.kind,
            _notes.severity,
            _notes.title,
            _notes.body,
            _notes.created_at,
            _deliveries.channel,
            _deliveries.status,
            _deliveries.attempts,
            _deliveries.sent_at,
            _deliveries.error,
        )
        .outerjoin(notification_deliveries, _deliveries.notification_id == _notes.id)
        .where(_notes.incident_id == incident_id)
        .order_by(_notes.id, _deliveries.id)
    )
    told: dict[int, dict[str, Any]] = {}
    for row in rows:
        note = told.setdefault(
            row.id,
            {
                "kind": row.kind,
                "severity": row.severity,
                "title": row.title,
                "body": row.body,
                "created_at": row.created_at,
                "deliveries": [],
            },
        )
        if row.channel is not None:
            note["deliveries"].append(
                {
                    "channel": row.channel,
                    "status": row.status,
                    "attempts": row.attempts,
                    "sent_at": row.sent_at,
                    "error": row.error,
                }
            )
    return list(told.values())


def failed(connection: Connection, *, limit: int = 20) -> list[dict[str, Any]]:
    """The messages that were given up on some channel, newest first."""
    rows = connection.execute(
        select(_notes.title, _notes.kind, _deliveries.channel, _deliveries.error)
        .join(notifications, _notes.id == _deliveries.notification_id)
        .where(_deliveries.status == "failed")
        .order_by(_deliveries.id.desc())
        .limit(limit)
    )
    return [dict(row._mapping) for row in rows]


def overview(connection: Connection) -> dict[str, Any]:
    """Return `counts`, with the newest failed messages as `last_failed`."""
    return {**counts(connection), "last_failed": failed(connection)}


def counts(connection: Connection) -> dict[str, int]:
    """How many deliveries are `pending`, `sent` and `failed`."""
    rows = connection.execute(select(_deliveries.status, func.count()).group_by(_deliveries.status))
    return {"pending": 0, "sent": 0, "failed": 0} | {row[0]: row[1] for row in rows}


def _change(connection: Connection, delivery_id: int, version: int, **values: Any) -> bool:
    changed = connection.execute(
        update(notification_deliveries)
        .where(
            _deliveries.id == delivery_id,
            _deliveries.version == version,
            _deliveries.status == "pending",
        )
        .values(version=version + 1, **values)
    )
    return changed.rowcount == 1


def _delivery(row: RowMapping) -> Delivery:
    return Delivery(
        **{
            **row,
            "kind": NotificationKind(row["kind"]),
            "severity": NotificationSeverity(row["severity"]),
        }
    )
