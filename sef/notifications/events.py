"""Write the history: a system event for each action, observation and refusal of SEF."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal

from sqlalchemy import Connection

from sef.db.database import after_commit
from sef.db.statements import insert_rows
from sef.db.tables import system_events
from sef.notifications.outbox import Notification, is_told, notify
from sef.terms import NotificationKind

Severity = Literal["info", "warning", "error"]

log = logging.getLogger("sef")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the history.

    Attributes:
        message: a sentence, without the prefix `SEF: ` that the history and the log add.
        details: the metadata of the row.
        notification: the kind of the notification to send; None: send none.
        matter: what the notification is about, beside its kind, event type, agent and incident;
            see `sef.notifications.outbox.Notification`.
    """

    type: str
    message: str
    agent_id: str | None = None
    severity: Severity = "info"
    details: dict[str, Any] | None = None
    incident_id: str | None = None
    notification: NotificationKind | None = None
    matter: tuple[object, ...] | None = None


def write_events(
    connection: Connection,
    events: Sequence[Event],
    now: datetime,
    notifications: Sequence[Notification] = (),
) -> None:
    """Write events into the transaction that they report and, once it is committed, into the log.

    The notifications of the events are put into the outbox, and `notifications` after them.
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
        _notification(event, event.notification)
        for event in events
        if event.notification is not None
    ]
    notify(connection, [*of_events, *notifications], now)
    after_commit(connection, partial(_log, events))


def write_once(connection: Connection, event: Event, now: datetime) -> bool:
    """Write an event that people are told of, unless its matter is told already.

    A retry that meets the same obstacle again calls this each time. Return True if it was written.
    """
    if event.notification is None:
        raise ValueError(f"{event.type} has no notification, which would hold its matter")
    if is_told(connection, _notification(event, event.notification), now):
        return False
    write_events(connection, [event], now)
    return True


def _notification(event: Event, kind: NotificationKind) -> Notification:
    return Notification(
        kind=kind,
        event_type=event.type,
        message=event.message,
        agent_id=event.agent_id,
        incident_id=event.incident_id,
        severity=event.severity,
        matter=event.matter,
    )


def _log(events: Sequence[Event]) -> None:
    for event in events:
        agent = f" (agent {event.agent_id})" if event.agent_id else ""
        log.log(_LEVELS[event.severity], "SEF: %s%s", event.message, agent)
