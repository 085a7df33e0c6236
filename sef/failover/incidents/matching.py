"""Match a signal to its incident: resolve the subject, then find or open the incident.

The subject of an incident is the id of the instance that is being lost, or a name for a primary
whose id is unknown.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.agents import Agent
from sef.failover.incidents.rows import (
    Incident,
    create_incident,
    incident_of_signal,
    latest_failover,
    latest_incident,
    open_incident,
    open_incident_of_primary,
    signal_was_received,
    update_incident,
)
from sef.notifications.events import Event, write_events
from sef.terms import IncidentStatus, NotificationKind, Signal

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
    must not make SEF replace the new primary too. So a signal that was received before, or that
    arrives while the former primary may still repeat its notice, is about the former primary.
    """
    agent, signal = received.agent, received.signal
    known = incident_of_signal(connection, agent.id, signal)
    if known is not None:
        return known.subject
    last = latest_failover(connection, agent.id)
    if (
        last is not None
        and last.deadline is not None
        and received.now <= last.deadline + REPEAT_WINDOW
    ):
        return last.subject
    return agent.subject


def incident_of_primary(connection: Connection, received: ReceivedSignal) -> Incident:
    """Return the incident of the primary that the signal belongs to, or open one."""
    agent, signal, now = received.agent, received.signal, received.now
    known = latest_incident(connection, agent.id, agent.subject)
    # An ignored signal arrived before its instance was registered. A repeat of the signal counts.
    if (
        known is not None
        and known.status != IncidentStatus.IGNORED
        and (known.is_open or signal_was_received(connection, known, signal))
    ):
        return known
    other = open_incident(connection, agent.id)
    if other is not None:
        if other.kind.is_planned:
            outcome, reason = IncidentStatus.RELEASED, f"superseded by a {signal.type}"
        else:
            outcome, reason = IncidentStatus.DONE, "the agent already has another primary"
        update_incident(connection, other, status=outcome, closed_at=now, reason=reason)
        closed = Event(
            "incident_closed",
            f"{other.kind} is {outcome}: {reason}",
            agent_id=agent.id,
            incident_id=other.id,
            notification=NotificationKind.OUTCOME,
        )
        write_events(connection, [closed], now)
    return open_incident_of_primary(connection, agent, now)


def incident_of_other_instance(
    connection: Connection, received: ReceivedSignal, subject: str
) -> Incident:
    """Return the incident of a former primary, or of an instance that the agent never had."""
    agent = received.agent
    known = latest_incident(connection, agent.id, subject)
    if known is not None:
        return known
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
