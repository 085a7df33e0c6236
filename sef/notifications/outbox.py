"""The outbox: notifications that are committed in the transaction of the event that they report.

`sef.notifications.deliver` sends them to the channels afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, delete, exists, func, select

from sef.db.statements import insert_missing
from sef.db.tables import incidents, notification_deliveries, notifications
from sef.notifications.matters import matter_key
from sef.notifications.messages import body, severity_of, title
from sef.terms import NotificationKind

_notifications = notifications.c
_deliveries = notification_deliveries.c


@dataclass(frozen=True, slots=True)
class Notification:
    """A message for people, about an incident or an event.

    Attributes:
        matter: what the message is about, beside its kind, event type, agent and incident: the
            instance, the obstacle in kind, the beginning of the episode. Messages with the same
            matter are one message. None: within an incident its event type, and outside the event
            itself.
    """

    kind: NotificationKind
    event_type: str
    message: str
    agent_id: str | None = None
    incident_id: str | None = None
    severity: Literal["info", "warning", "error"] = "info"
    matter: tuple[object, ...] | None = None

    def key(self, now: datetime) -> str:
        """Return the key of the matter of a message that is written at `now`."""
        matter = self.matter
        if matter is None:
            matter = () if self.incident_id else (now.isoformat(), self.message)
        about = self.incident_id or f"agent {self.agent_id or ''}"
        return matter_key(self.kind, about, self.event_type, *matter)


def notify(connection: Connection, messages: Sequence[Notification], now: datetime) -> None:
    """Put notifications into the outbox; they are sent once this transaction is committed.

    A matter has one notification: a second one is dropped. The messages of an incident are one
    thread, and outside an incident each matter is a thread of its own.
    """
    rows = [
        {
            "matter": (matter := message.key(now)),
            "thread": message.incident_id
            or f"{message.event_type}:{message.agent_id or ''}:{matter[:12]}",
            "kind": message.kind,
            "incident_id": message.incident_id,
            "agent_id": message.agent_id,
            "severity": severity_of(message.kind, message.severity),
            "title": title(message.agent_id, message.incident_id, message.event_type),
            "body": body(message.kind, message.message, now, message.agent_id, message.incident_id),
            "created_at": now,
        }
        for message in messages
    ]
    insert_missing(connection, notifications, rows)


def is_told(connection: Connection, message: Notification, now: datetime) -> bool:
    """Return True if the matter of a message has a notification already."""
    is_same = _notifications.matter == message.key(now)
    return bool(connection.scalar(select(exists().where(is_same))))


def delete_old(connection: Connection, before: datetime, limit: int) -> int:
    """Delete at most `limit` notifications dispatched before `before`; return their number.

    The oldest are deleted first. Notifications with a pending delivery stay. Notifications of an
    open incident stay too, since they keep SEF from reporting the incident twice.
    """
    incident = incidents.c
    old = connection.scalars(
        select(_notifications.id)
        .where(
            _notifications.dispatched_at < before,
            ~exists().where(
                _deliveries.notification_id == _notifications.id, _deliveries.status == "pending"
            ),
            ~exists().where(
                incident.id == _notifications.incident_id, incident.open_agent_id.is_not(None)
            ),
        )
        .order_by(_notifications.dispatched_at, _notifications.id)
        .limit(limit)
    ).all()
    if old:
        connection.execute(
            delete(notification_deliveries).where(_deliveries.notification_id.in_(old))
        )
        connection.execute(delete(notifications).where(_notifications.id.in_(old)))
    return len(old)


def of_incident(connection: Connection, incident_id: str) -> list[dict[str, Any]]:
    """Return the notifications of an incident, in order, each with its deliveries."""
    rows = connection.execute(
        select(
            _notifications.id,
            _notifications.kind,
            _notifications.severity,
            _notifications.title,
            _notifications.body,
            _notifications.created_at,
            _deliveries.channel,
            _deliveries.status,
            _deliveries.attempts,
            _deliveries.sent_at,
            _deliveries.error,
        )
        .outerjoin(notification_deliveries, _deliveries.notification_id == _notifications.id)
        .where(_notifications.incident_id == incident_id)
        .order_by(_notifications.id, _deliveries.id)
    )
    by_id: dict[int, dict[str, Any]] = {}
    for row in rows:
        notification = by_id.setdefault(
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
            notification["deliveries"].append(
                {
                    "channel": row.channel,
                    "status": row.status,
                    "attempts": row.attempts,
                    "sent_at": row.sent_at,
                    "error": row.error,
                }
            )
    return list(by_id.values())


def overview(connection: Connection) -> dict[str, Any]:
    """Return `counts`, with the newest failed deliveries as `last_failed`."""
    return {**counts(connection), "last_failed": failed(connection)}


def counts(connection: Connection) -> dict[str, int]:
    """Return the number of deliveries that are `pending`, `sent` and `failed`."""
    rows = connection.execute(select(_deliveries.status, func.count()).group_by(_deliveries.status))
    return {"pending": 0, "sent": 0, "failed": 0} | {row[0]: row[1] for row in rows}


def failed(connection: Connection, *, limit: int = 20) -> list[dict[str, Any]]:
    """Return the newest failed deliveries, newest first."""
    rows = connection.execute(
        select(_notifications.title, _notifications.kind, _deliveries.channel, _deliveries.error)
        .join(notifications, _notifications.id == _deliveries.notification_id)
        .where(_deliveries.status == "failed")
        .order_by(_deliveries.id.desc())
        .limit(limit)
    )
    return [dict(row._mapping) for row in rows]
