"""Rules of notifications: their severity, title and body, and the delays of retries."""

from datetime import UTC, datetime, timedelta

from sef.terms import SEVERITIES, NotificationKind, NotificationSeverity

TRIES = 20
"""Maximum number of attempts to send a message: about two hours with the delays below."""
FIRST_DELAY = timedelta(seconds=5)
"""Mean delay after the first failed attempt; it doubles with each further attempt."""
MAX_DELAY = timedelta(minutes=10)
"""Maximum mean delay between two attempts."""

MIN_SEVERITY = {
    NotificationKind.DETECTION: NotificationSeverity.WARNING,
    NotificationKind.ALERT: NotificationSeverity.WARNING,
    NotificationKind.OPERATOR: NotificationSeverity.ERROR,
    NotificationKind.CUTOVER: NotificationSeverity.ERROR,
}
"""Minimum severity of each kind; INFO for a kind without an entry."""


def severity_of(kind: NotificationKind, severity: str) -> NotificationSeverity:
    """Return the severity of the event, or the minimum of the kind if that is higher."""
    return max(
        NotificationSeverity(severity),
        MIN_SEVERITY.get(kind, NotificationSeverity.INFO),
        key=SEVERITIES.index,
    )


def should_send(
    severity: NotificationSeverity, minimum: NotificationSeverity, *, thread_begun: bool
) -> bool:
    """Return True if the message should be sent.

    Once a thread has started, later messages in it are always sent: the people who were notified
    of an incident are notified of its end.
    """
    return thread_begun or SEVERITIES.index(severity) >= SEVERITIES.index(minimum)


def title(agent_id: str | None, incident_id: str | None, event_type: str) -> str:
    """Return the title, equal for all messages of an incident so that mail programs thread them."""
    subject = incident_id or event_type.replace("_", " ")
    return f"[SEF] {agent_id}: {subject}" if agent_id else f"[SEF] {subject}"


def body(
    kind: NotificationKind,
    message: str,
    at: datetime,
    agent_id: str | None,
    incident_id: str | None,
) -> str:
    """Return the text: the message, then the agent, incident, moment and time, one on each line."""
    facts = {
        "agent": agent_id,
        "incident": incident_id,
        "moment": kind.value,
        "at": f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    lines = [f"{name}: {value}" for name, value in facts.items() if value]
    return "\n".join([message, "", *lines])


def retry_delay(tries: int, luck: float) -> timedelta:
    """Return the delay before the next attempt.

    Args:
        tries: the number of attempts that failed.
        luck: a random number from 0 to 1, which multiplies the delay by 0.5 to 1.5.
    """
    # 5 s doubled 7 times exceeds the maximum, so larger powers are not computed.
    delay: timedelta = min(FIRST_DELAY * 2 ** min(tries - 1, 10), MAX_DELAY)
    return delay * (0.5 + luck)
