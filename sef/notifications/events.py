"""The history that people read: one row per thing that SEF did, saw or refused."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection

from sef.db.database import after_commit
from sef.db.statements import insert_rows
from sef.db.tables import system_events
from sef.notifications.outbox import Notification, notify
from sef.terms import NotificationKind

Severity = Literal["info", "warning", "error"]

log = logging.getLogger("sef")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


@dataclass(frozen=True, slots=True)
class Event:
    type: str
    message: str
    agent_id: str | None = None
    severity: Severity = "info"
    details: dict[str, Any] | None = None
    incident_id: str | None = None
    notification: NotificationKind | None = None
    """What people are told with it; None: nobody is told, it is only written down."""


def write_events(
    connection: Connection,
    events: Sequence[Event],
    now: datetime,
    notes: Sequence[Notification] = (),
) -> None:
    """Write events into the transaction that they tell of and, once it is committed, the log.

    Events with a notification are put into the outbox too, and `notes` after them.
    """
    if not events:
        return
    rows = [
        {
            "event_type": event.type,
            "severity": event.severity,
            "agent_id": event.agent_id,
            "message": f"SEF: {event.message}",
            "details": event.details,
            "incident_id": event.incident_id,
            "created_at": now,
        }
        for event in events
    ]
    insert_rows(connection, system_events, *rows)
    of_events = [
        Notification(
            event.notification,
            event.type,
            event.message,
            event.agent_id,
            event.incident_id,
            event.severity,
        )
        for event in events
        if event.notification is not None
    ]
    notify(connection, [*of_events, *notes], now)

    def tell() -> None:
        for row, event in zip(rows, events, strict=True):
            about = f" (agent {event.agent_id})" if event.agent_id else ""
            log.log(_LEVELS[event.severity], "%s%s", row["message"], about)

    after_commit(connection, tell)
