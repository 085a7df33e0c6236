"""Begin planned switchovers: drills, and returns from on-demand to spot.

A planned switchover is an incident. This module opens it and `sef.failover.reconcile` carries it
out. A signal of AWS for the primary ends it early.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, exists, func, select

from sef.agents import Agent, read_agent, update_agent
from sef.config import Settings
from sef.db.database import Database
from sef.db.tables import agents, cutovers, incidents, replica_instances
from sef.errors import Unavailable
from sef.failover.incidents.rows import open_incident, open_incident_of_primary, returns_since
from sef.notifications.events import Event, write_events
from sef.notifications.failures import report_failure_at
from sef.terms import Goal, IncidentKind, Market, ReplicaStatus

DAY = timedelta(days=1)

_IS_MOVING = exists().where(cutovers.c.open_agent_id == agents.c.id)
"""The cutover of the last promotion is unfinished: another switch would add to its work."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An agent that seems to be due, with the version of the row that says so.

    The rest of the row is read for one agent at a time, so that a row that cannot be read holds up
    no other agent.
    """

    id: str
    version: int


def plan_switchovers(database: Database, settings: Settings, now: datetime) -> int:
    """Begin the drills and the returns to spot that are due; return their number.

    An agent's exception ends the planning for this agent only.
    """
    drills, on_demand = database.read(_due, now, timedelta(seconds=settings.on_demand_min_seconds))
    begun = 0
    for listed in drills:
        try:
            begun += database.write(_begin_drill, listed, now)
        except Unavailable:
            raise
        except Exception as error:
            report_failure_at(database, listed.id, "drill", error, now)
    for listed in on_demand:
        try:
            begun += database.write(_begin_return, listed, settings, now)
        except Unavailable:
            raise
        except Exception as error:
            report_failure_at(database, listed.id, "return to spot", error, now)
    return begun


def drills_due(connection: Connection, now: datetime) -> Sequence[Listed]:
    """Return the agents that are due for a drill, without an open incident or cutover."""
    columns = agents.c
    has_incident = exists().where(incidents.c.open_agent_id == columns.id)
    rows = connection.execute(
        select(
            columns.id,
            columns.version,
            columns.drill_interval,
            func.coalesce(columns.drilled_at, columns.created_at).label("last_at"),
        ).where(
            columns.drill_interval.is_not(None),
            columns.instance_id.is_not(None),
            ~has_incident,
            ~_IS_MOVING,
        )
    )
    # The difference cannot overflow, whatever the rows hold; the beginning of the drill reads the
    # agent and decides.
    return [
        Listed(row.id, row.version)
        for row in rows
        if abs(now - row.last_at).total_seconds() >= row.drill_interval
    ]


def on_demand_since(connection: Connection, before: datetime) -> Sequence[Listed]:
    """Return the agents that run on-demand since a promotion at or before `before`.

    Agents in manual mode are left out, and agents with an open cutover, or with an incident that is
    open or was closed after `before`.
    """
    replica, incident = replica_instances.c, incidents.c
    # One condition with OR would read all incidents; two conditions use one index each.
    has_incident = exists().where(incident.open_agent_id == agents.c.id)
    had_incident = exists().where(incident.agent_id == agents.c.id, incident.closed_at > before)
    rows = connection.execute(
        select(agents.c.id, agents.c.version)
        .join(replica_instances, replica.instance_id == agents.c.instance_id)
        .where(
            replica.status == ReplicaStatus.PROMOTED,
            replica.market == Market.ON_DEMAND,
            replica.promoted_at <= before,
            ~agents.c.manual_replica_enabled,
            ~has_incident,
            ~had_incident,
            ~_IS_MOVING,
        )
    )
    return [Listed(row.id, row.version) for row in rows]


def _due(
    connection: Connection, now: datetime, on_demand_stay: timedelta
) -> tuple[Sequence[Listed], Sequence[Listed]]:
    """Return the agents with a drill that is due, and the agents with a return that is due."""
    return drills_due(connection, now), on_demand_since(connection, now - on_demand_stay)


def _begin_drill(connection: Connection, listed: Listed, now: datetime) -> bool:
    agent = _lock_unchanged(connection, listed)
    if agent is None or not agent.is_drill_due(now):
        return False
    reason = f"drill, due every {agent.drill_interval} s"
    update_agent(connection, agent, now, drilled_at=now, not_before=None)
    _open(connection, agent, IncidentKind.DRILL, reason, now)
    return True


def _begin_return(
    connection: Connection, listed: Listed, settings: Settings, now: datetime
) -> bool:
    agent = _lock_unchanged(connection, listed)
    if agent is None:
        return False
    if returns_since(connection, agent.id, now - DAY) >= settings.max_spot_returns_per_day:
        return False
    stay = settings.on_demand_min_seconds
    reason = f"return to spot: the primary has been on-demand for at least {stay:.0f} s"
    _open(connection, agent, IncidentKind.RETURN, reason, now)
    return True


def _lock_unchanged(connection: Connection, listed: Listed) -> Agent | None:
    """Lock an agent; None if it has changed since it was listed, or has an open incident."""
    agent = read_agent(connection, listed.id, lock=True)
    if agent.version != listed.version or open_incident(connection, agent.id) is not None:
        return None
    return agent


def _open(
    connection: Connection, agent: Agent, kind: IncidentKind, reason: str, now: datetime
) -> None:
    incident = open_incident_of_primary(
        connection, agent, now, kind=kind, goal=Goal.SWITCH, reason=reason
    )
    event = Event("switchover_planned", reason, agent.id, incident_id=incident.id)
    write_events(connection, [event], now)
