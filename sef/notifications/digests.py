"""Rules of digests: messages beyond the rate of a channel are sent together, none is dropped."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from sef.terms import SEVERITIES, NotificationSeverity, plural

MESSAGES = 20
"""Messages of their own that a channel gets within `WINDOW`; further ones are sent as digests."""
WINDOW = timedelta(minutes=5)
"""Period of `MESSAGES`."""
EVERY = timedelta(seconds=30)
"""Minimum time between the digests of a channel. No message waits longer for its digest."""
SIZE = 50
"""Maximum number of messages in one digest, so that services do not cut it; more make several."""


class Message(Protocol):
    """The part of a message that a digest lists."""

    @property
    def severity(self) -> NotificationSeverity:
        """Severity of the message."""

    @property
    def title(self) -> str:
        """Title of the message, with its agent."""

    @property
    def body(self) -> str:
        """Text of the message; its first line is the sentence that a digest lists."""


def severity_of_all(messages: Sequence[Message]) -> NotificationSeverity:
    """Return the highest severity of the messages."""
    return max((message.severity for message in messages), key=SEVERITIES.index)


def digest_title(messages: Sequence[Message]) -> str:
    """Return the title of a digest."""
    return f"[SEF] digest of {plural(len(messages), 'message')}"


def digest_body(messages: Sequence[Message]) -> str:
    """Return the text of a digest: the title, severity and sentence of each message, in order."""
    minutes = WINDOW.total_seconds() / 60
    lines = [
        f"{number}. {message.title.removeprefix('[SEF] ')} ({message.severity.value}): "
        f"{message.body.partition(chr(10))[0]}"
        for number, message in enumerate(messages, 1)
    ]
    reason = f"More than {MESSAGES} messages in {minutes:.0f} minutes; SEF sends these together."
    return "\n".join([reason, "", *lines])
