"""Delivering what is in the outbox, channel by channel, so that no channel waits for another."""

import logging
import random
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime
from threading import Lock

from sqlalchemy import Connection

from sef.clock import Clock
from sef.db.database import Database
from sef.notifications import outbox
from sef.notifications.channels import Channel, DeliveryFailed, DeliveryRejected
from sef.notifications.events import Event, write_events
from sef.notifications.messages import TRIES, retry_delay
from sef.notifications.outbox import Delivery
from sef.terms import NotificationKind, NotificationSeverity

log = logging.getLogger("sef")

MAX_BLOCKING_ATTEMPTS = 3
"""How often a message is tried before those behind it in its thread go first."""
PATIENCE = 5.0
"""Seconds that a run waits for its channels; one that takes longer goes on by itself."""


class Notifier:
    """Sends the messages that are due.

    A worker claims a message before it sends it, so one of several workers sends it. If that worker
    dies in between, its claim expires and the message is sent again: at least once, and at most
    twice for each worker that dies.
    """

    def __init__(
        self,
        database: Database,
        channels: Sequence[Channel],
        least: NotificationSeverity,
        clock: Clock,
    ) -> None:
        self._database = database
        self._channels = channels
        self._least = least
        self._clock = clock
        self._threads = ThreadPoolExecutor(max(1, len(channels)), "sef-notify")
        self._running: dict[str, Future[int]] = {}
        self._lock = Lock()

    @property
    def names(self) -> list[str]:
        return [channel.name for channel in self._channels]

    def deliver(self) -> int:
        """One round over all channels; returns how many messages went, as far as is known now.

        A channel that has not finished its last round is left alone.
        """
        self._dispatch()
        with self._lock:
            for channel in self._channels:
                before = self._running.get(channel.name)
                if before is None or before.done():
                    self._running[channel.name] = self._threads.submit(self._serve, channel)
            running = list(self._running.values())
        return sum(future.result() for future in wait(running, PATIENCE).done)

    def test(self) -> dict[str, str | None]:
        """Send a message to every channel, past the outbox; returns for each what is wrong."""
        return dict(zip(self.names, self._threads.map(_tried, self._channels), strict=True))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _dispatch(self) -> None:
        while self._database.write(self._dispatch_some) == outbox.DISPATCHED_AT_ONCE:
            pass

    def _dispatch_some(self, connection: Connection) -> int:
        now = self._clock()
        for name in outbox.fail_removed_channels(connection, self.names, now):
            said = (
                f"messages for {name} are given up: SEF_NOTIFICATION_URLS does not name it any more"
            )
            write_events(connection, [Event("notification_failed", said, severity="error")], now)
        return outbox.dispatch(connection, self.names, self._least, now)

    def _serve(self, channel: Channel) -> int:
        now = self._clock()
        due = self._database.read(outbox.due_threads, channel.name, now)
        return sum(self._serve_thread(channel, thread) for thread in due)

    def _serve_thread(self, channel: Channel, thread: str) -> int:
        """Send what a thread has for a channel, in order.

        Behind a message that has failed a few times the others do not wait any longer: it may be
        the message, not the channel. It still goes first whenever they are tried.
        """
        sent = 0
        for delivery in self._database.read(outbox.pending, channel.name, thread):
            now = self._clock()
            is_waiting = delivery.next_at > now and delivery.attempts < MAX_BLOCKING_ATTEMPTS
            if is_waiting or delivery.is_claimed(now):
                break
            if not self._database.write(
                outbox.claim,
                delivery,
                now,
            ):
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
            told = error  # the name is unbound after the clause
            return self._database.write(self._put_off, delivery, told)
        now = self._clock()
        self._database.write(outbox.finish, delivery, "sent", error=None, sent_at=now)
        return "sent"

    def _put_off(self, connection: Connection, delivery: Delivery, error: DeliveryFailed) -> str:
        now = self._clock()
        tries = delivery.attempts + 1
        if tries < TRIES and not isinstance(error, DeliveryRejected):
            next_at = now + retry_delay(tries, random.random())
            outbox.finish(connection, delivery, "pending", error=str(error), next_at=next_at)
            if tries == 1:
                log.warning("SEF: %s did not take a message: %s", delivery.channel, error)
            return "pending"
        if not outbox.finish(connection, delivery, "failed", error=str(error)):
            return "pending"
        times = "once" if tries == 1 else f"{tries} times"
        said = (
            f"{delivery.channel} did not take, tried {times}, the {delivery.kind} of "
            f"{delivery.title.removeprefix('[SEF] ')}, given up: {error}"
        )
        event = Event(
            "notification_failed",
            said,
            delivery.agent_id,
            "error",
            incident_id=delivery.incident_id,
        )
        write_events(connection, [event], now)
        return "failed"


def _tried(channel: Channel) -> str | None:
    try:
        channel.send(
            "test",
            NotificationKind.ALERT,
            NotificationSeverity.WARNING,
            "[SEF] test",
            "This is a test of SEF's notifications; nothing has happened.",
        )
    except DeliveryFailed as error:
        return str(error)
    return None


MESSAGES_PER_TRANSACTION = 500


def delete_old_messages(database: Database, before: datetime) -> None:
    """Delete the messages that were finished before then, some in each transaction."""
    count = MESSAGES_PER_TRANSACTION
    while count == MESSAGES_PER_TRANSACTION:
        count = database.write(outbox.delete_old, before, MESSAGES_PER_TRANSACTION)
