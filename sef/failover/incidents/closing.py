"""Close an incident, and tell people about its outcome."""

from datetime import datetime

from sqlalchemy import Connection

from sef.failover.incidents.rows import Incident, update_incident
from sef.notifications.events import Event, Severity, write_events
from sef.terms import IncidentStatus, NotificationKind


def close_incident(
    connection: Connection,
    incident: Incident,
    outcome: IncidentStatus,
    reason: str,
    now: datetime,
    severity: Severity = "info",
) -> None:
    """Close an open incident without a promotion, and write the event with its outcome.

    Raises:
        VersionConflict: the incident has changed since it was read.
    """
    update_incident(connection, incident, status=outcome, closed_at=now, reason=reason)
    event = Event(
        "incident_closed",
        f"{incident.kind} is {outcome}: {reason}",
        agent_id=incident.agent_id,
        severity=severity,
        incident_id=incident.id,
        notification=NotificationKind.OUTCOME,
    )
    write_events(connection, [event], now)
