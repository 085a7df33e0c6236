"""Planned switchovers: drills, and the way back from on-demand to spot.

Each is an incident like the others, with a goal and an end; what opens one is here, what carries it
out is `sef.reconcile`. Whatever AWS announces meanwhile goes first.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, exists, select

from sef.agents import Agent, read_agent, update_agent
from sef.config import Settings
from sef.db.database import Database
from sef.db.tables import agents, incidents, replica_instances
from sef.failover.incidents.rows import open_incident, open_incident_of_primary, returns_since
from sef.notifications.events import Event, write_events
from sef.terms import Goal, IncidentKind, Market, ReplicaStatus

DAY = timedelta(days=1)


def plan_switchovers(database: Database, settings: Settings, now: datetime) -> int:
    """Begin the drills and the returns to spot that are due; return how many began."""
    drills, on_demand = database.read(_due, now, timedelta(seconds=settings.on_demand_min_seconds))
    begun = sum(database.write(_begin_drill, agent, now) for agent in drills)
    return begun + sum(database.write(_begin_return, agent, settings, now) for agent in on_demand)


def _due(
    connection: Connection, now: datetime, on_demand_stay: timedelta
) -> tuple[Sequence[Agent], Sequence[Agent]]:
    """Return the agents whose drill is due, and those whose return to spot is."""
    return drills_due(connection, now), on_demand_since(connection, now - on_demand_stay)


def _begin_drill(connection: Connection, seen: Agent, now: datetime) -> bool:
    agent = _unchanged(connection, seen)
    if agent is None:
        return False
    reason = f"a drill, every {agent.drill_interval} s"
    update_agent(connection, agent, now, drilled_at=now, not_before=None)
    _open(connection, agent, IncidentKind.DRILL, reason, now)
    return True


def _begin_return(connection: Connection, seen: Agent, settings: Settings, now: datetime) -> bool:
    agent = _unchanged(connection, seen)
    if agent is None:
        return False
    if returns_since(connection, agent.id, now - DAY) >= settings.max_spot_returns_per_day:
        return False
    stay = settings.on_demand_min_seconds
    reason = f"the primary has been on-demand for {stay:.0f} s or more: back to spot"
    _open(connection, agent, IncidentKind.RETURN, reason, now)
    return True


def _unchanged(connection: Connection, seen: Agent) -> Agent | None:
    """Lock the agent and return it; None if it has changed since, or has an open incident."""
    agent = read_agent(connection, seen.id, lock=True)
    if agent != seen or open_incident(connection, agent.id) is not None:
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


def drills_due(connection: Connection, now: datetime) -> Sequence[Agent]:
    """Agents whose last drill, or whose registration, is longer ago than their interval."""
    incident = incidents.c
    in_hand = exists().where(incident.open_agent_id == agents.c.id)
    rows = connection.execute(
        select(agents).where(
            agents.c.drill_interval.is_not(None), agents.c.instance_id.is_not(None), ~in_hand
        )
    )
    found = [Agent(**row._mapping) for row in rows]
    return [agent for agent in found if agent.is_drill_due(now)]


def on_demand_since(connection: Connection, before: datetime) -> Sequence[Agent]:
    """Agents, not in manual mode, whose primary SEF launched on-demand and promoted before then.

    Those of whom something is in hand, or was in hand since then, are left out.
    """
    replica, incident = replica_instances.c, incidents.c
    # Two conditions and not one with OR, for which every incident ever would be read.
    in_hand = exists().where(incident.open_agent_id == agents.c.id)
    was_in_hand = exists().where(incident.agent_id == agents.c.id, incident.closed_at > before)
    rows = connection.execute(
        select(agents)
        .join(replica_instances, replica.instance_id == agents.c.instance_id)
        .where(
            replica.status == ReplicaStatus.PROMOTED,
            replica.market == Market.ON_DEMAND,
            replica.promoted_at <= before,
            ~agents.c.manual_replica_enabled,
            ~in_hand,
            ~was_in_hand,
        )
    )
    return [Agent(**row._mapping) for row in rows]
