"""What people are told of, how urgent it is, and when a message that did not go is tried again."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

TRIES = 20
"""About two hours, with the waits below."""
FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(minutes=10)


class Moment(StrEnum):
    """What a message tells of; an incident has one message at most of each."""

    RECOMMENDATION = "recommendation"  # the risk is too low to do anything
    DETECTION = "detection"  # an instance is being lost, or is lost, and SEF acts
    SWITCH = "switch"  # the agent has a new primary
    OPERATOR = "operator"  # it cannot go on without a person
    CUTOVER = "cutover"  # what is to follow the new primary does not, without a person
    OUTCOME = "outcome"  # it is over
    ALERT = "alert"  # of no incident


class Urgency(StrEnum):
    """From which on messages are sent is a setting; in rising order."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


URGENCIES = list(Urgency)
LEAST = {
    Moment.DETECTION: Urgency.WARNING,
    Moment.ALERT: Urgency.WARNING,
    Moment.OPERATOR: Urgency.ERROR,
    Moment.CUTOVER: Urgency.ERROR,
}


def urgency(moment: Moment, severity: str) -> Urgency:
    """How urgent an event is as a message: as its severity says, but not below its moment's."""
    return max(Urgency(severity), LEAST.get(moment, Urgency.INFO), key=URGENCIES.index)


def is_told(urgency: Urgency, least: Urgency, *, thread_begun: bool) -> bool:
    """Whether a message is sent. Who has heard of an incident hears how it went on and ended."""
    return thread_begun or URGENCIES.index(urgency) >= URGENCIES.index(least)


def title(agent_id: str | None, incident_id: str | None, event_type: str) -> str:
    """The subject, the same for all messages of an incident, so that mail programs thread them."""
    about = incident_id or event_type.replace("_", " ")
    return f"[SEF] {agent_id}: {about}" if agent_id else f"[SEF] {about}"


def body(
    moment: Moment, message: str, at: datetime, agent_id: str | None, incident_id: str | None
) -> str:
    """What happened, then what programs and people sort it by."""
    facts = {
        "agent": agent_id,
        "incident": incident_id,
        "moment": moment.value,
        "at": f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    lines = [f"{name}: {value}" for name, value in facts.items() if value]
    return "\n".join([message, "", *lines])


def wait_after(tries: int, luck: float) -> timedelta:
    """How long to wait after so many failed tries; `luck` in 0..1 spreads it by half."""
    # 5 s doubled 7 times is beyond the longest wait: larger powers need not be computed.
    wait: timedelta = min(FIRST_WAIT * 2 ** min(tries - 1, 10), LONGEST_WAIT)
    return wait * (0.5 + luck)
