"""Store incidents; `sef.failover.incidents.signal_rows` stores their signals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, CursorResult, Row, and_, bindparam, func, or_, select

from sef.agents import Agent
from sef.db.statements import insert_rows, rows_where, swap
from sef.db.tables import incidents
from sef.terms import OPEN_INCIDENTS, Goal, IncidentKind, IncidentStatus, SignalType

PLANNED = [kind for kind in IncidentKind if kind.is_planned]
"""The kinds of a planned switchover."""

_OF_SUBJECT = (
    select(incidents)
    .where(
        incidents.c.agent_id == bindparam("agent"),
        incidents.c.subject.in_([bindparam("lost"), bindparam("alias")]),
        incidents.c.kind.not_in(PLANNED),
    )
    .order_by(incidents.c.opened_at.desc())
    .limit(1)
)
"""Statement of `latest_incident`, built once."""


@dataclass(frozen=True, slots=True)
class Incident:
    """The loss of one instance, or one planned switchover."""

    id: str
    agent_id: str
    subject: str
    """ID of the instance; `epoch-N` for a primary whose instance is unknown."""
    kind: IncidentKind
    instance_id: str | None
    pool_id: str | None
    status: IncidentStatus
    open_agent_id: str | None
    """ID of the agent while the incident is open; UNIQUE, so an agent has one open incident."""
    goal: Goal
    reason: str
    obstacle: str | None
    """Reason why the incident needs an operator, while it does."""
    risk_score: float | None
    inputs: dict[str, Any] | None
    rebalance_at: datetime | None
    termination_at: datetime | None
    """Arrival of the first termination notice; for a loss, the time at which SEF found it."""
    deadline: datetime | None
    """Announced end of the instance; for a loss, the same as `termination_at`."""
    opened_at: datetime
    closed_at: datetime | None
    replica_id: str | None
    new_instance_id: str | None
    failover_time_ms: int | None
    version: int

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_INCIDENTS

    @property
    def is_emergency(self) -> bool:
        """True if an instance is being lost, or is lost, and has to be replaced."""
        return self.goal is Goal.SWITCH and not self.kind.is_planned

    @property
    def caused_by(self) -> SignalType:
        """Type of the signal that a promotion in this incident responds to."""
        if self.kind is IncidentKind.LOSS:
            return SignalType.LOSS
        return SignalType.TERMINATION if self.goal is Goal.SWITCH else SignalType.REBALANCE


def open_incident(connection: Connection, agent_id: str) -> Incident | None:
    """Return the open incident of an agent, if there is one."""
    return _only(rows_where(connection, incidents, {"open_agent_id": agent_id}))


def open_incidents_of(connection: Connection, kind: IncidentKind) -> Sequence[Incident]:
    """Return the open incidents of a kind, of all agents."""
    columns = incidents.c
    statement = select(incidents).where(columns.open_agent_id.is_not(None), columns.kind == kind)
    return [_incident(row) for row in connection.execute(statement)]


def latest_incident(
    connection: Connection, agent_id: str, subject: str, alias: str | None = None
) -> Incident | None:
    """Return the last incident of an instance; planned switchovers do not count.

    Args:
        alias: another subject under which the instance may have an incident.
    """
    names = {"agent": agent_id, "lost": subject, "alias": alias or subject}
    return _only(connection.execute(_OF_SUBJECT, names))


def incident_of_instance(
    connection: Connection, agent_id: str, instance_id: str
) -> Incident | None:
    """Return the last incident of an instance, also one from before the instance was known."""
    incident = latest_incident(connection, agent_id, instance_id)
    if incident is not None:
        return incident
    columns = incidents.c
    return newest_incident(
        connection,
        columns.agent_id == agent_id,
        columns.instance_id == instance_id,
        columns.kind.not_in(PLANNED),
    )


def read_incident(connection: Connection, incident_id: str) -> Incident:
    """Return an incident that is known to exist."""
    incident = find_incident(connection, incident_id)
    if incident is None:
        raise LookupError(incident_id)
    return incident


def find_incident(connection: Connection, incident_id: str) -> Incident | None:
    """Return an incident by its id, if it exists."""
    return _only(rows_where(connection, incidents, {"id": incident_id}))


def incidents_before(
    connection: Connection, agent_id: str, before: Incident | None, limit: int
) -> Sequence[Incident]:
    """Return an agent's incidents that are older than `before`, newest first."""
    columns = incidents.c
    statement = select(incidents).where(columns.agent_id == agent_id)
    if before is not None:
        same_time = and_(columns.opened_at == before.opened_at, columns.id < before.id)
        statement = statement.where(or_(columns.opened_at < before.opened_at, same_time))
    newest = statement.order_by(columns.opened_at.desc(), columns.id.desc()).limit(limit)
    return [_incident(row) for row in connection.execute(newest)]


def create_incident(
    connection: Connection,
    agent: Agent,
    subject: str,
    *,
    instance_id: str | None,
    pool_id: str | None,
    now: datetime,
    status: IncidentStatus = IncidentStatus.OPEN,
    kind: IncidentKind = IncidentKind.INTERRUPTION,
    goal: Goal = Goal.MONITOR,
    reason: str = "",
) -> Incident:
    """Insert an incident and return it. The UNIQUE key rejects a second open one of the agent."""
    incident_id = f"incident-{uuid4().hex[:16]}"
    row = {
        "id": incident_id,
        "agent_id": agent.id,
        "subject": subject,
        "kind": kind,
        "instance_id": instance_id,
        "pool_id": pool_id,
        "status": status,
        "open_agent_id": agent.id if status in OPEN_INCIDENTS else None,
        "goal": goal,
        "reason": reason,
        "opened_at": now,
        "closed_at": None if status in OPEN_INCIDENTS else now,
    }
    insert_rows(connection, incidents, row)
    return read_incident(connection, incident_id)


def open_incident_of_primary(
    connection: Connection,
    agent: Agent,
    now: datetime,
    *,
    kind: IncidentKind = IncidentKind.INTERRUPTION,
    goal: Goal = Goal.MONITOR,
    reason: str = "",
) -> Incident:
    """Open an incident of the agent's primary. The agent must have no open incident."""
    return create_incident(
        connection,
        agent,
        agent.subject,
        instance_id=agent.instance_id,
        pool_id=agent.pool_id,
        now=now,
        kind=kind,
        goal=goal,
        reason=reason,
    )


def update_incident(connection: Connection, incident: Incident, **values: Any) -> Incident:
    """Change an incident that was read, and return the changed incident.

    Raises:
        VersionConflict: the row has changed since it was read.
    """
    if "status" in values:
        is_open = values["status"] in OPEN_INCIDENTS
        values["open_agent_id"] = incident.agent_id if is_open else None
        values.setdefault("obstacle", None)
    swap(connection, incidents, {"id": incident.id}, version=incident.version, **values)
    return replace(incident, version=incident.version + 1, **values)


def latest_failover(connection: Connection, agent_id: str) -> Incident | None:
    """Return the last incident of an agent that ended with a promotion."""
    return newest_incident(
        connection, incidents.c.agent_id == agent_id, incidents.c.new_instance_id.is_not(None)
    )


def returns_since(connection: Connection, agent_id: str, since: datetime) -> int:
    """Return the number of an agent's returns from on-demand to spot since `since`."""
    columns = incidents.c
    return (
        connection.scalar(
            select(func.count()).where(
                columns.agent_id == agent_id,
                columns.kind == IncidentKind.RETURN,
                columns.status == IncidentStatus.DONE,
                columns.opened_at > since,
            )
        )
        or 0
    )


def newest_incident(connection: Connection, *conditions: Any) -> Incident | None:
    """Return the incident that was opened last, of those that meet the conditions."""
    newest_first = select(incidents).where(*conditions).order_by(incidents.c.opened_at.desc())
    return _only(connection.execute(newest_first.limit(1)))


def _only(rows: CursorResult[Any]) -> Incident | None:
    row = rows.one_or_none()
    return None if row is None else _incident(row)


def _incident(row: Row[Any]) -> Incident:
    return Incident(
        **{
            **row._mapping,
            "goal": Goal(row.goal),
            "kind": IncidentKind(row.kind),
            "status": IncidentStatus(row.status),
        }
    )
