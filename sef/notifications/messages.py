"""What people are told of, how urgent it is, and when a message that did not go is tried again."""

from datetime import UTC, datetime, timedelta

from sef.terms import SEVERITIES, NotificationKind, NotificationSeverity

TRIES = 20
"""About two hours, with the waits below."""
FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(minutes=10)

MIN_SEVERITY = {
    NotificationKind.DETECTION: NotificationSeverity.WARNING,
    NotificationKind.ALERT: NotificationSeverity.WARNING,
    NotificationKind.OPERATOR: NotificationSeverity.ERROR,
    NotificationKind.CUTOVER: NotificationSeverity.ERROR,
}


def severity_of(kind: NotificationKind, severity: str) -> NotificationSeverity:
    """How urgent an event is as a message: as its severity says, but not below its kind's."""
    return max(
        NotificationSeverity(severity),
        MIN_SEVERITY.get(kind, NotificationSeverity.INFO),
        key=SEVERITIES.index,
    )


def should_send(
    urgency: NotificationSeverity, least: NotificationSeverity, *, thread_begun: bool
) -> bool:
    """Whether a message is sent. Who has heard of an incident hears how it went on and ended."""
    return thread_begun or SEVERITIES.index(urgency) >= SEVERITIES.index(least)


def title(agent_id: str | None, incident_id: str | None, event_type: str) -> str:
    """The subject, the same for all messages of an incident, so that mail programs thread them."""
    about = incident_id or event_type.replace("_", " ")
    return f"[SEF] {agent_id}: {about}" if agent_id else f"[SEF] {about}"


def body(
    kind: NotificationKind,
    message: str,
    at: datetime,
    agent_id: str | None,
    incident_id: str | None,
) -> str:
    """What happened, then what programs and people sort it by."""
    facts = {
        "agent": agent_id,
        "incident": incident_id,
        "moment": kind.value,
        "at": f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    lines = [f"{name}: {value}" for name, value in facts.items() if value]
    return "\n".join([message, "", *lines])


def retry_delay(tries: int, luck: float) -> timedelta:
    """How long to wait after so many failed tries; `luck` in 0..1 spreads it by half."""
    # 5 s doubled 7 times is beyond the longest wait: larger powers need not be computed.
    wait: timedelta = min(FIRST_WAIT * 2 ** min(tries - 1, 10), LONGEST_WAIT)
    return wait * (0.5 + luck)
