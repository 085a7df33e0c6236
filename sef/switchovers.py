"""Planned switchovers: drills, and the way back from on-demand to spot.

Each is an incident like the others, with a goal and an end; what opens one is here, what carries it
out is `sef.reconcile`. Whatever AWS announces meanwhile goes first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.clock import Clock
from sef.config import Settings
from sef.core.policy import Goal, Kind
from sef.store import fleet, incidents
from sef.store.database import Database
from sef.store.events import Event, write_events
from sef.store.fleet import Agent

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Switchovers:
    database: Database
    settings: Settings
    clock: Clock

    def plan(self) -> int:
        """Begin the drills and the returns to spot that are due; returns how many."""
        now = self.clock()
        stayed = now - timedelta(seconds=self.settings.on_demand_stay)
        drills, on_demand = self.database.read(
            lambda c: (fleet.drills_due(c, now), fleet.on_demand_since(c, stayed))
        )
        begun = sum(self._begin(agent, now, self._drill) for agent in drills)
        return begun + sum(self._begin(agent, now, self._return) for agent in on_demand)

    def _begin(
        self, told: Agent, now: datetime, open_one: Callable[[Connection, Agent, datetime], bool]
    ) -> bool:
        def write(connection: Connection) -> bool:
            agent = fleet.read_agent(connection, told.id, lock=True)
            if agent != told or incidents.open_incident(connection, agent.id) is not None:
                return False
            return open_one(connection, agent, now)

        return self.database.write(write)

    def _drill(self, connection: Connection, agent: Agent, now: datetime) -> bool:
        reason = f"a drill, every {agent.drill_interval} s"
        fleet.update_agent(connection, agent, now, drilled_at=now, not_before=None)
        _open(connection, agent, Kind.DRILL, reason, now)
        return True

    def _return(self, connection: Connection, agent: Agent, now: datetime) -> bool:
        if (
            incidents.returns_since(connection, agent.id, now - DAY)
            >= self.settings.returns_per_day
        ):
            return False
        stay = self.settings.on_demand_stay
        reason = f"the primary has been on-demand for {stay:.0f} s or more: back to spot"
        _open(connection, agent, Kind.RETURN, reason, now)
        return True


def _open(connection: Connection, agent: Agent, kind: Kind, reason: str, now: datetime) -> None:
    incident = incidents.open_for_primary(
        connection, agent, now, kind=kind, goal=Goal.SWITCH, reason=reason
    )
    event = Event("switchover_planned", reason, agent.id, incident_id=incident.id)
    write_events(connection, [event], now)
