"""Open the incident of a primary that AWS had announced before it became the primary.

AWS's signal belongs to the incident that closed when the instance was replaced, to the incident of
its loss, or to another agent's incident. Its repeats change nothing there, so that the primary
would end unreplaced. A signal for a former primary belongs to an ignored incident of the agent, and
may never be repeated.
"""

from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, exists, or_

from sef.agents import Agent
from sef.db.tables import incidents, spot_interruption_events
from sef.failover.incidents.closing import close_incident
from sef.failover.incidents.rows import (
    Incident,
    newest_incident,
    open_incident,
    open_incident_of_primary,
    update_incident,
)
from sef.failover.incidents.signal_rows import end_of_notice
from sef.notifications.events import Event, write_events
from sef.terms import Goal, IncidentKind, IncidentStatus, NotificationKind, SignalType

ENDS_WITHIN = timedelta(seconds=60)
"""Time after an announced end from which an instance that is named again is taken to run on."""


def open_announced(
    connection: Connection, agent: Agent, now: datetime, *, standby_ttl: timedelta | None = None
) -> bool:
    """Open an incident if AWS has announced the end of the new primary, or recommended a rebalance.

    An open incident of the agent is closed: it is about another instance.

    Args:
        agent: the agent with its new primary, locked by this transaction.
        standby_ttl: the time for which a recommendation counts. None: only a notice counts, since
            an operator who names an instance wants it to serve.

    Returns:
        True if an incident was opened.
    """
    if agent.instance_id is None:
        return False  # incidents without an instance are those of other agents too
    announced = _announced(connection, agent)
    if announced is None:
        return False
    signal_type, goal = SignalType.REBALANCE, Goal.STANDBY
    deadline = end_of_notice(connection, announced)
    if deadline is not None:
        signal_type, goal = SignalType.TERMINATION, Goal.SWITCH
        is_over = now > deadline + ENDS_WITHIN
    else:
        since = announced.rebalance_at
        is_over = (
            since is None
            or standby_ttl is None
            or now - since >= standby_ttl
            or announced.goal is Goal.MONITOR
        )
    if is_over:
        return False
    other = open_incident(connection, agent.id)
    if other is not None and agent.is_subject(other.subject):
        return False
    if other is not None:
        reason = "the agent already has another primary"
        close_incident(connection, other, IncidentStatus.DONE, reason, now)
    reason = f"AWS sent a {signal_type} for it before it became the primary"
    opened = open_incident_of_primary(connection, agent, now, goal=goal, reason=reason)
    update_incident(
        connection,
        opened,
        rebalance_at=announced.rebalance_at,
        termination_at=announced.termination_at,
        deadline=deadline,
        risk_score=announced.risk_score,
    )
    event = Event(
        signal_type.replace("-", "_"),
        f"{signal_type} for {agent.instance_id}: {reason}",
        agent_id=agent.id,
        severity="warning",
        incident_id=opened.id,
        notification=NotificationKind.DETECTION,
    )
    write_events(connection, [event], now)
    return True


def _announced(connection: Connection, agent: Agent) -> Incident | None:
    """Return the latest incident in which AWS sent a signal for the primary, of any agent.

    An incident that was ignored counts only if it is this agent's: another agent may name any
    instance in a signal.
    """
    columns, signal = incidents.c, spot_interruption_events.c
    has_notice = exists().where(
        signal.incident_id == columns.id, signal.signal_type == SignalType.TERMINATION
    )
    return newest_incident(
        connection,
        columns.instance_id == agent.instance_id,
        or_(
            columns.kind == IncidentKind.INTERRUPTION,
            and_(columns.kind == IncidentKind.LOSS, has_notice),
        ),
        or_(columns.status != IncidentStatus.IGNORED, columns.agent_id == agent.id),
    )
