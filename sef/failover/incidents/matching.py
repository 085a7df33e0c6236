"""Match a signal to its incident: resolve the subject, then find or open the incident.

The subject of an incident is the id of the instance that is being lost, or a name for a primary
whose id is unknown.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.agents import Agent, former_primary, name_incident
from sef.failover.incidents.closing import close_incident
from sef.failover.incidents.rows import (
    Incident,
    create_incident,
    incident_of_instance,
    latest_failover,
    latest_incident,
    open_incident,
    open_incident_of_primary,
    read_incident,
)
from sef.failover.incidents.signal_rows import (
    SAME_END,
    announced_end,
    incident_of_signal,
    signal_was_received,
)
from sef.terms import IncidentStatus, Signal

REPEAT_WINDOW = timedelta(seconds=60)
"""Time after the announced end of an instance during which it may still repeat its notice."""


@dataclass(frozen=True, slots=True)
class ReceivedSignal:
    """A signal, its agent (locked by this transaction) and the time of arrival."""

    signal: Signal
    agent: Agent
    now: datetime


def resolve_subject(connection: Connection, received: ReceivedSignal) -> str:
    """Return the subject of a signal without an `instance_id`.

    Usually the signal is about the primary. But an agent that repeats its notice after a promotion
    must not make SEF replace the new primary too.
    """
    agent, signal = received.agent, received.signal
    known = incident_of_signal(connection, agent.id, signal) if signal.is_dated else None
    if known is not None:
        return known.subject
    former = former_primary(connection, agent)
    last = latest_failover(connection, agent.id)
    is_former = is_about_former(
        signal,
        received.now,
        changed_at=former[1] if former else None,
        deadline=last.deadline if last else None,
        announced_end=announced_end(connection, last) if last else None,
    )
    if not is_former:
        return agent.subject
    if last is not None and (former is None or (last.closed_at or last.opened_at) >= former[1]):
        return last.subject
    return former[0] if former else agent.subject


def is_about_former(
    signal: Signal,
    now: datetime,
    *,
    changed_at: datetime | None,
    deadline: datetime | None,
    announced_end: datetime | None,
) -> bool:
    """Return True if a signal that names no instance is about the former primary.

    - A signal that AWS announced before the last change of primary is about the former primary.
    - Until one minute after the end of the former primary, a signal is its repeat, unless it
      announces an end that differs from the former primary's: AWS announces one end for each
      instance.

    Args:
        changed_at: time of the last change from one known primary to another.
        deadline: end of the former primary in its incident.
        announced_end: the end that the notice of the former primary announced.
    """
    if signal.is_dated and changed_at is not None and signal.signalled_at < changed_at:
        return True
    if deadline is None or now > deadline + REPEAT_WINDOW:
        return False
    if announced_end is None or signal.terminates_at is None:
        return True
    return abs(signal.terminates_at - announced_end) <= SAME_END


def incident_of_primary(
    connection: Connection, received: ReceivedSignal, memory: timedelta
) -> Incident:
    """Return the incident of the primary that the signal belongs to, or open one.

    Args:
        memory: see `signal_was_received`.
    """
    agent, signal, now = received.agent, received.signal, received.now
    known = latest_incident(connection, agent.id, agent.subject, agent.unnamed_subject)
    # An ignored signal arrived before its instance was registered. A repeat of the signal counts.
    if (
        known is not None
        and known.status != IncidentStatus.IGNORED
        and (known.is_open or signal_was_received(connection, known, signal, now, memory))
    ):
        return known
    other = open_incident(connection, agent.id)
    if other is not None:
        if other.kind.is_planned:
            outcome, reason = IncidentStatus.RELEASED, f"superseded by a {signal.type}"
        else:
            outcome, reason = IncidentStatus.DONE, "the agent already has another primary"
        close_incident(connection, other, outcome, reason, now)
    return open_incident_of_primary(connection, agent, now)


def incident_of_other_instance(
    connection: Connection, received: ReceivedSignal, subject: str
) -> Incident:
    """Return the incident of a former primary, or of an instance that the agent never had."""
    agent = received.agent
    known = incident_of_instance(connection, agent.id, subject)
    if known is not None:
        return known
    known = incident_of_signal(connection, agent.id, received.signal)
    if known is not None and known.instance_id is None:
        # The primary was unknown until it was replaced; a repeat of the same signal names it.
        name_incident(connection, known.id, known.version, subject, known.pool_id)
        return read_incident(connection, known.id)
    return create_incident(
        connection,
        agent,
        subject,
        instance_id=received.signal.instance_id,
        pool_id=None,
        now=received.now,
        status=IncidentStatus.IGNORED,
        reason=f"{subject} is not the primary of {agent.id}",
    )
