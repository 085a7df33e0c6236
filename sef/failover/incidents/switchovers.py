"""Begin planned switchovers: drills, and returns from on-demand to spot.

A planned switchover is an incident. This module opens it and `sef.failover.reconcile` carries it
out. A signal of AWS for the primary ends it early.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, exists, select

from sef.agents import Agent, read_agent, update_agent
from sef.config import Settings
from sef.db.database import Database
from sef.db.tables import agents, cutovers, incidents, replica_instances
from sef.failover.incidents.rows import open_incident, open_incident_of_primary, returns_since
from sef.notifications.events import Event, write_events
from sef.terms import Goal, IncidentKind, Market, ReplicaStatus

DAY = timedelta(days=1)

_IS_MOVING = exists().where(cutovers.c.open_agent_id == agents.c.id)
"""The cutover of the last promotion is unfinished: another switch would add to its work."""


def plan_switchovers(database: Database, settings: Settings, now: datetime) -> int:
    """Begin the drills and the returns to spot that are due; return their number."""
    drills, on_demand = database.read(_due, now, timedelta(seconds=settings.on_demand_min_seconds))
    begun = sum(database.write(_begin_drill, agent, now) for agent in drills)
    return begun + sum(database.write(_begin_return, agent, settings, now) for agent in on_demand)


def drills_due(connection: Connection, now: datetime) -> Sequence[Agent]:
    """Return the agents that are due for a drill, without an open incident or cutover."""
    has_incident = exists().where(incidents.c.open_agent_id == agents.c.id)
    rows = connection.execute(
        select(agents).where(
            agents.c.drill_interval.is_not(None),
            agents.c.instance_id.is_not(None),
            ~has_incident,
            ~_IS_MOVING,
        )
    )
    idle = [Agent(**row._mapping) for row in rows]
    return [agent for agent in idle if agent.is_drill_due(now)]


def on_demand_since(connection: Connection, before: datetime) -> Sequence[Agent]:
    """Return the agents that run on-demand since a promotion at or before `before`.

    Agents in manual mode are left out, and agents with an open cutover, or with an incident that is
    open or was closed after `before`.
    """
    replica, incident = replica_instances.c, incidents.c
    # One condition with OR would read all incidents; two conditions use one index each.
    has_incident = exists().where(incident.open_agent_id == agents.c.id)
    had_incident = exists().where(incident.agent_id == agents.c.id, incident.closed_at > before)
    rows = connection.execute(
        select(agents)
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
    return [Agent(**row._mapping) for row in rows]


def _due(
    connection: Connection, now: datetime, on_demand_stay: timedelta
) -> tuple[Sequence[Agent], Sequence[Agent]]:
    """Return the agents with a drill that is due, and the agents with a return that is due."""
    return drills_due(connection, now), on_demand_since(connection, now - on_demand_stay)


def _begin_drill(connection: Connection, listed: Agent, now: datetime) -> bool:
    agent = _lock_unchanged(connection, listed)
    if agent is None:
        return False
    reason = f"drill, due every {agent.drill_interval} s"
    update_agent(connection, agent, now, drilled_at=now, not_before=None)
    _open(connection, agent, IncidentKind.DRILL, reason, now)
    return True


def _begin_return(connection: Connection, listed: Agent, settings: Settings, now: datetime) -> bool:
    agent = _lock_unchanged(connection, listed)
    if agent is None:
        return False
    if returns_since(connection, agent.id, now - DAY) >= settings.max_spot_returns_per_day:
        return False
    stay = settings.on_demand_min_seconds
    reason = f"return to spot: the primary has been on-demand for at least {stay:.0f} s"
    _open(connection, agent, IncidentKind.RETURN, reason, now)
    return True


def _lock_unchanged(connection: Connection, listed: Agent) -> Agent | None:
    """Lock an agent; None if it has changed since it was listed, or has an open incident."""
    agent = read_agent(connection, listed.id, lock=True)
    if agent != listed or open_incident(connection, agent.id) is not None:
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
