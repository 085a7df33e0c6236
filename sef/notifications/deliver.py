"""Deliver the messages of the outbox, each channel in a thread of its own."""

import logging
import random
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime
from threading import Lock

from sqlalchemy import Connection

from sef.clock import Clock
from sef.db.database import Database
from sef.errors import Unavailable
from sef.notifications import deliveries, digests, outbox
from sef.notifications.channels import Channel, DeliveryFailed, DeliveryRejected
from sef.notifications.deliveries import Delivery
from sef.notifications.events import Event, write_events
from sef.notifications.failures import report_failure_at
from sef.notifications.messages import TRIES, retry_delay
from sef.terms import NotificationKind, NotificationSeverity, plural

log = logging.getLogger("sef")

MAX_BLOCKING_ATTEMPTS = 3
"""Number of failed attempts after which the messages behind a message no longer wait for it."""
PASS_TIMEOUT = 5.0
"""Seconds that a pass waits for its channels; a slower channel continues in the background."""
MESSAGES_PER_TRANSACTION = 500
"""Maximum number of old messages that one transaction deletes."""


class Notifier:
    """Sends the messages that are due.

    A worker claims a message before it sends the message, so only one of several workers sends it.
    If that worker dies in between, its claim expires and the message is sent again. So a message is
    sent at least once, and at most once more for each worker that dies.
    """

    def __init__(
        self,
        database: Database,
        channels: Sequence[Channel],
        min_severity: NotificationSeverity,
        clock: Clock,
    ) -> None:
        self._database = database
        self._channels = channels
        self._min_severity = min_severity
        self._clock = clock
        self._threads = ThreadPoolExecutor(max(1, len(channels)), "sef-notify")
        self._running: dict[str, Future[int]] = {}
        self._lock = Lock()

    @property
    def names(self) -> list[str]:
        """Names of the channels."""
        return [channel.name for channel in self._channels]

    def deliver(self) -> int:
        """Run one pass over all channels; return the number of messages known to be sent.

        A channel that has not finished its last pass is skipped.
        """
        self._dispatch()
        with self._lock:
            for channel in self._channels:
                previous = self._running.get(channel.name)
                if previous is None or previous.done():
                    self._running[channel.name] = self._threads.submit(self._serve, channel)
            running = list(self._running.values())
        return sum(future.result() for future in wait(running, PASS_TIMEOUT).done)

    def test(self) -> dict[str, str | None]:
        """Send a test message to every channel, without the outbox; return its error, or None."""
        return dict(zip(self.names, self._threads.map(_test, self._channels), strict=True))

    def close(self) -> None:
        """Start no more messages; messages that are being sent may still be delivered."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _dispatch(self) -> None:
        while self._database.write(self._dispatch_some) == deliveries.DISPATCH_LIMIT:
            pass

    def _dispatch_some(self, connection: Connection) -> int:
        now = self._clock()
        for name in deliveries.fail_removed_channels(connection, self.names, now):
            message = f"Gave up messages for {name}: SEF_NOTIFICATION_URLS no longer contains it"
            write_events(connection, [Event("notification_failed", message, severity="error")], now)
        return deliveries.dispatch(connection, self.names, self._min_severity, now)

    def _serve(self, channel: Channel) -> int:
        now = self._clock()
        since = now - digests.WINDOW
        room = digests.MESSAGES - self._database.read(deliveries.sent_since, channel.name, since)
        sent = 0
        for thread in self._database.read(deliveries.due_threads, channel.name, now):
            if sent >= room:
                break
            try:
                sent += self._serve_thread(channel, thread, room - sent)
            except Unavailable:
                raise
            except Exception as error:
                report_failure_at(self._database, None, "delivery of messages", error, now)
        return sent + (self._serve_digests(channel) if sent >= room else 0)

    def _serve_digests(self, channel: Channel) -> int:
        """Send the messages beyond the rate of a channel together; return their number."""
        now = self._clock()
        since = now - digests.EVERY
        if self._database.read(deliveries.has_digest_since, channel.name, since):
            return 0
        sent = 0
        while due := self._due_now(channel, now):
            for start in range(0, len(due), digests.SIZE):
                listed = due[start : start + digests.SIZE]
                listed = self._database.write(deliveries.claim_all, listed, now)
                if not listed or not self._send_digest(channel, listed):
                    return sent
                sent += len(listed)
        return sent

    def _due_now(self, channel: Channel, now: datetime) -> list[Delivery]:
        """Return the messages that may be sent to a channel now, oldest first."""
        due: list[Delivery] = []
        for thread in self._database.read(deliveries.due_threads, channel.name, now):
            for delivery in self._database.read(deliveries.pending, channel.name, thread):
                if not _may_be_sent(delivery, now):
                    break
                due.append(delivery)
        return sorted(due, key=lambda delivery: delivery.id)

    def _send_digest(self, channel: Channel, listed: Sequence[Delivery]) -> bool:
        first = listed[0]
        thread, kind, title, body = first.thread, first.kind, first.title, first.body
        if len(listed) > 1:
            thread, kind = f"digest:{first.id}", NotificationKind.ALERT
            title, body = digests.digest_title(listed), digests.digest_body(listed)
        try:
            channel.send(thread, kind, digests.severity_of_all(listed), title, body)
        except DeliveryFailed as error:
            for delivery in listed:
                self._database.write(self._retry_or_give_up, delivery, error)
            return False
        self._database.write(_finish_digest, listed, self._clock())
        return True

    def _serve_thread(self, channel: Channel, thread: str, room: int) -> int:
        """Send the pending messages of a thread to a channel, in order, at most `room` of them.

        The messages behind a message that has failed a few times no longer wait for it: the cause
        may be the message, not the channel. In each pass it is still tried first.
        """
        sent = 0
        for delivery in self._database.read(deliveries.pending, channel.name, thread):
            now = self._clock()
            if sent == room or not _may_be_sent(delivery, now):
                break
            if not self._database.write(deliveries.claim, delivery, now):
                break
            status = self._send(channel, delivery)
            if status == "sent":
                sent += 1
            elif status == "pending" and delivery.attempts + 1 < MAX_BLOCKING_ATTEMPTS:
                break
        return sent

    def _send(self, channel: Channel, delivery: Delivery) -> str:
        try:
            channel.send(
                delivery.thread,
                delivery.kind,
                delivery.severity,
                delivery.title,
                delivery.body,
            )
        except DeliveryFailed as error:
            return self._database.write(self._retry_or_give_up, delivery, error)
        now = self._clock()
        self._database.write(deliveries.finish, delivery, "sent", error=None, sent_at=now)
        return "sent"

    def _retry_or_give_up(
        self, connection: Connection, delivery: Delivery, error: DeliveryFailed
    ) -> str:
        now = self._clock()
        tries = delivery.attempts + 1
        if tries < TRIES and not isinstance(error, DeliveryRejected):
            next_at = now + retry_delay(tries, random.random())
            deliveries.finish(connection, delivery, "pending", error=str(error), next_at=next_at)
            if tries == 1:
                log.warning("SEF: Message to %s failed, will retry: %s", delivery.channel, error)
            return "pending"
        if not deliveries.finish(connection, delivery, "failed", error=str(error)):
            return "pending"
        subject = delivery.title.removeprefix("[SEF] ")
        event = Event(
            "notification_failed",
            f"Gave up the {delivery.kind} message of {subject} for {delivery.channel} "
            f"after {plural(tries, 'attempt')}: {error}",
            agent_id=delivery.agent_id,
            severity="error",
            incident_id=delivery.incident_id,
        )
        write_events(connection, [event], now)
        return "failed"


def _may_be_sent(delivery: Delivery, now: datetime) -> bool:
    """Return False if the messages of the thread wait for this one, or a worker is sending it."""
    is_waiting = delivery.next_at > now and delivery.attempts < MAX_BLOCKING_ATTEMPTS
    return not (is_waiting or delivery.is_claimed(now))


def _finish_digest(connection: Connection, listed: Sequence[Delivery], now: datetime) -> None:
    """Record that all messages of a digest were sent, in one transaction."""
    for delivery in listed:
        deliveries.finish(
            connection, delivery, "sent", error=None, sent_at=now, digest=listed[0].id
        )


def delete_old_messages(database: Database, before: datetime) -> None:
    """Delete messages dispatched before `before`, a limited number in each transaction."""
    count = MESSAGES_PER_TRANSACTION
    while count == MESSAGES_PER_TRANSACTION:
        count = database.write(outbox.delete_old, before, MESSAGES_PER_TRANSACTION)


def _test(channel: Channel) -> str | None:
    try:
        channel.send(
            "test",
            NotificationKind.ALERT,
            NotificationSeverity.WARNING,
            "[SEF] test",
            "This is a test message of SEF. Nothing has happened.",
        )
    except DeliveryFailed as error:
        return str(error)
    return None
