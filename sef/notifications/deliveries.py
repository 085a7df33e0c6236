"""The deliveries of the outbox: one row for each notification and channel.

A notification is written without a list of channels. `dispatch` adds a delivery for each channel
of the settings, and every delivery is claimed, retried and finished on its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, RowMapping, exists, func, select, update

from sef.db.statements import insert_missing
from sef.db.tables import notification_deliveries, notifications
from sef.notifications.messages import should_send
from sef.terms import NotificationKind, NotificationSeverity

CLAIM_DURATION = timedelta(seconds=120)
"""Maximum time to send a message; after that, other workers assume that the sender died."""
REMOVED_AFTER = timedelta(days=1)
"""Time that a due message waits for a channel that the settings no longer contain."""
DISPATCH_LIMIT = 200
"""Maximum number of notifications in one transaction of `dispatch`."""
THREADS_PER_PASS = 100
"""Maximum number of threads that one pass serves on a channel."""

_OF_DELIVERY = ("id", "channel", "thread", "attempts", "next_at", "claimed_until", "version")

_notifications = notifications.c
_deliveries = notification_deliveries.c


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message for one channel, with the row that tracks its attempts."""

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
        """Return True if another worker is sending the message.

        A claim that expires far in the future was written by a worker with a fast clock, and does
        not count.
        """
        return (
            self.claimed_until is not None and now < self.claimed_until <= now + 2 * CLAIM_DURATION
        )


def dispatch(
    connection: Connection,
    channels: Sequence[str],
    min_severity: NotificationSeverity,
    now: datetime,
) -> int:
    """Create the deliveries of new notifications; return the number of these notifications.

    At most `DISPATCH_LIMIT` notifications are dispatched.
    """
    fresh = connection.execute(
        select(notifications)
        .where(_notifications.dispatched_at.is_(None))
        .order_by(_notifications.id)
        .limit(DISPATCH_LIMIT)
    ).all()
    if not fresh:
        return 0
    if channels:
        insert_missing(
            connection,
            notification_deliveries,
            [
                {
                    "notification_id": notification.id,
                    "channel": channel,
                    "thread": notification.thread,
                    "status": "pending",
                    "next_at": now,
                }
                for notification in _to_send(connection, fresh, min_severity)
                for channel in channels
            ],
        )
    connection.execute(
        update(notifications)
        .where(
            _notifications.id.in_([notification.id for notification in fresh]),
            _notifications.dispatched_at.is_(None),
        )
        .values(dispatched_at=now)
    )
    return len(fresh)


def due_threads(connection: Connection, channel: str, now: datetime) -> Sequence[str]:
    """Return the threads with a due message for a channel, oldest first."""
    return connection.scalars(
        select(_deliveries.thread)
        .where(
            _deliveries.channel == channel,
            _deliveries.status == "pending",
            _deliveries.next_at <= now,
        )
        .group_by(_deliveries.thread)
        .order_by(func.min(_deliveries.notification_id))
        .limit(THREADS_PER_PASS)
    ).all()


def pending(connection: Connection, channel: str, thread: str) -> list[Delivery]:
    """Return the pending messages of a thread for a channel, in order."""
    rows = connection.execute(
        select(
            *(_deliveries[name] for name in _OF_DELIVERY),
            _notifications.incident_id,
            _notifications.agent_id,
            _notifications.kind,
            _notifications.severity,
            _notifications.title,
            _notifications.body,
        )
        .join(notifications, _notifications.id == _deliveries.notification_id)
        .where(
            _deliveries.channel == channel,
            _deliveries.thread == thread,
            _deliveries.status == "pending",
        )
        .order_by(_deliveries.notification_id)
    )
    return [_delivery(row._mapping) for row in rows]


def sent_since(connection: Connection, channel: str, since: datetime) -> int:
    """Return the number of messages that a channel got since a time; a digest is one message."""
    of_channel = (_deliveries.channel == channel, _deliveries.sent_at > since)
    own, digests = connection.execute(
        select(
            func.count() - func.count(_deliveries.digest),
            func.count(_deliveries.digest.distinct()),
        ).where(*of_channel)
    ).one()
    return int(own + digests)


def has_digest_since(connection: Connection, channel: str, since: datetime) -> bool:
    """Return True if a channel got a digest since a time."""
    is_digest = (
        _deliveries.channel == channel,
        _deliveries.sent_at > since,
        _deliveries.digest.is_not(None),
    )
    return bool(connection.scalar(select(exists().where(*is_digest))))


def claim_all(connection: Connection, due: Sequence[Delivery], now: datetime) -> list[Delivery]:
    """Claim the deliveries of a digest; leave out those that another worker has claimed first."""
    return [delivery for delivery in due if claim(connection, delivery, now)]


def claim(connection: Connection, delivery: Delivery, now: datetime) -> bool:
    """Claim a delivery in order to send it; return False if another worker was first."""
    return _change(
        connection,
        delivery.id,
        delivery.version,
        attempts=delivery.attempts + 1,
        claimed_until=now + CLAIM_DURATION,
        # If this worker dies, another worker retries the delivery at this time.
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
    digest: int | None = None,
) -> bool:
    """Record the result of a claimed delivery; return False if another worker took it over.

    Args:
        digest: id of the first delivery of the digest that it was sent in; None: it was sent by
            itself.
    """
    values: dict[str, Any] = {"status": status, "claimed_until": None, "error": error}
    if digest is not None:
        values["digest"] = digest
    if sent_at is not None:
        values["sent_at"] = sent_at
    if next_at is not None:
        values["next_at"] = next_at
    return _change(connection, delivery.id, delivery.version + 1, **values)


def fail_removed_channels(
    connection: Connection, channels: Sequence[str], now: datetime
) -> Sequence[str]:
    """Fail the due messages of channels that were removed; return the names of these channels.

    Args:
        channels: names of the channels in the settings.
    """
    is_stale = (
        _deliveries.status == "pending",
        _deliveries.channel.not_in(channels),
        _deliveries.next_at <= now - REMOVED_AFTER,
    )
    removed = connection.scalars(select(_deliveries.channel).where(*is_stale).distinct()).all()
    if removed:
        connection.execute(
            update(notification_deliveries)
            .where(*is_stale)
            .values(
                status="failed",
                error="SEF_NOTIFICATION_URLS no longer contains this channel",
                version=_deliveries.version + 1,
            )
        )
    return removed


def _to_send(
    connection: Connection, fresh: Sequence[Row[Any]], min_severity: NotificationSeverity
) -> list[Row[Any]]:
    threads = {notification.thread for notification in fresh}
    begun = set(
        connection.scalars(
            select(_deliveries.thread).where(_deliveries.thread.in_(threads)).distinct()
        )
    )
    sent = []
    for notification in fresh:
        if should_send(
            NotificationSeverity(notification.severity),
            min_severity,
            thread_begun=notification.thread in begun,
        ):
            begun.add(notification.thread)
            sent.append(notification)
    return sent


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
