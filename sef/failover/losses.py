"""Instances that are gone without a word: neither a recommendation nor a notice came.

Two witnesses are needed. EC2 alone could be lagging, or speak of an instance that was replaced by
hand; an agent alone could just have lost its network. What EC2 does not show at all it has to miss
look after look (`sef.sightings`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, exists, func, literal, select

from sef.agents import Agent, read_agent, update_agent
from sef.clock import Clock
from sef.cloud.ec2 import Ec2, Instance
from sef.config import Settings
from sef.db.database import Database
from sef.db.tables import agents, incidents, price_series
from sef.failover.incidents.rows import (
    open_incident,
    open_incident_of_primary,
    record_signal,
    update_incident,
)
from sef.failover.standbys.backoff import cool_down_interrupted_pool
from sef.failover.standbys.rows import Replica, missing_replicas, replica_of_instance
from sef.failover.standbys.watch import MISSING_FOR, Observed, record_check
from sef.notifications.events import Event, write_events
from sef.terms import Goal, IncidentKind, IncidentStatus, NotificationKind, Signal, SignalType

PER_CALL = 200
"""Instances that one DescribeInstances is asked for by filter."""
AGENTS_PER_RUN = 2000


@dataclass(frozen=True, slots=True)
class Losses:
    database: Database
    cloud: Ec2
    settings: Settings
    clock: Clock

    def detect(self) -> int:
        """Open an incident for each primary that is lost; returns for how many.

        Raises:
            CloudError: EC2 cannot be read; nothing is concluded from that.
        """
        now = self.clock()
        silent = self.database.read(
            lambda c: silent_agents(c, self._silent_since(now), limit=AGENTS_PER_RUN)
        )
        found = 0
        for start in range(0, len(silent), PER_CALL):
            found += self._examine(silent[start : start + PER_CALL], now)
        return found

    def _silent_since(self, now: datetime) -> datetime:
        return now - timedelta(seconds=self.settings.loss_silence)

    def _examine(self, silent: Sequence[Agent], now: datetime) -> int:
        told = self.cloud.instances([a.instance_id for a in silent if a.instance_id])
        if self.database.read(lambda c: missing_replicas(c, told)):
            self.database.write(lambda c: self._found_again(c, told, now))
        lost = 0
        for agent in silent:
            instance = told.get(agent.instance_id or "")
            if instance is not None and not instance.is_gone:
                continue
            lost += self.database.write(
                lambda c, agent=agent, instance=instance: self._record(c, agent, instance, now)  # type: ignore[misc]
            )
        return lost

    def _record(
        self, connection: Connection, told: Agent, instance: Instance | None, now: datetime
    ) -> bool:
        agent = read_agent(connection, told.id, lock=True)
        if agent != told or agent.instance_id is None:
            return False  # it has another primary, or has moved on otherwise: look again
        if heard_since(connection, agent.id, self._silent_since(now)):
            return False
        if instance is None and not self._is_forgotten(connection, agent.instance_id, now):
            return False
        incident = open_incident(connection, agent.id)
        if incident is not None and incident.is_emergency:
            return False
        state = instance.ec2_state if instance else "not there"
        reason = (
            f"EC2 reports {agent.instance_id} {state}, and the agent has been silent for "
            f"{self.settings.loss_silence:.0f} s or more"
        )
        inputs = {"ec2_state": state, "silent_for": self.settings.loss_silence}
        if incident is not None and incident.kind.is_planned:
            update_incident(
                connection, incident, status=IncidentStatus.RELEASED, closed_at=now, reason=reason
            )
            incident = None
        if incident is None:
            incident = open_incident_of_primary(connection, agent, now)
        record_signal(connection, incident, Signal(SignalType.LOSS, now), now)
        update_incident(
            connection,
            incident,
            kind=IncidentKind.LOSS,
            goal=Goal.SWITCH,
            reason=reason,
            termination_at=now,
            deadline=now,
            inputs=inputs,
        )
        update_agent(connection, agent, now, not_before=None)
        cool_down_interrupted_pool(connection, agent.pool_id, now, self.settings)
        event = Event(
            "unannounced_loss",
            reason,
            agent.id,
            "error",
            inputs,
            incident.id,
            moment=NotificationKind.DETECTION,
        )
        write_events(connection, [event], now)
        return True

    def _is_forgotten(self, connection: Connection, instance_id: str, now: datetime) -> bool:
        """Whether EC2 has missed a primary that SEF launched, look after look.

        Another may never have existed, or not in this region: no evidence of a loss.
        """
        replica = replica_of_instance(connection, instance_id)
        return replica is not None and self._note(connection, replica, Observed.MISSING, now)

    def _found_again(
        self, connection: Connection, told: Mapping[str, Instance], now: datetime
    ) -> None:
        for replica in missing_replicas(connection, told):
            self._note(connection, replica, Observed.RUNS, now)

    def _note(
        self, connection: Connection, replica: Replica, sight: Observed, now: datetime
    ) -> bool:
        every = timedelta(seconds=self.settings.loss_check_interval)
        seen = record_check(connection, replica, sight, now, every=every, patience=MISSING_FOR)
        return seen is Observed.GONE


def heard_since(connection: Connection, agent_id: str, since: datetime) -> bool:
    """Whether the primary has reported since then."""
    return bool(connection.scalar(select(_heard(literal(agent_id), since))))


def _heard(agent_id: ColumnElement[str], since: datetime) -> ColumnElement[bool]:
    series = price_series.c
    return exists().where(series.agent_id == agent_id, series.primary_heard_at > since)


def silent_agents(connection: Connection, since: datetime, *, limit: int) -> Sequence[Agent]:
    """Agents whose known primary has said nothing since then, nor was new, and is not replaced yet.

    What the standby reports is no word of the primary's.
    """
    incident = incidents.c
    heard = _heard(agents.c.id, since)
    in_hand = exists().where(incident.open_agent_id == agents.c.id, incident.goal == Goal.SWITCH)
    rows = connection.execute(
        select(agents)
        .where(
            agents.c.instance_id.is_not(None),
            func.coalesce(agents.c.primary_since, agents.c.created_at) <= since,
            ~heard,
            ~in_hand,
        )
        .order_by(agents.c.id)
        .limit(limit)
    )
    return [Agent(**row._mapping) for row in rows]
