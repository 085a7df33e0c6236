"""Instances that are gone without a word: neither a recommendation nor a notice came.

Two witnesses are needed. EC2 alone could be lagging, or speak of an instance that was replaced by
hand; an agent alone could just have lost its network. What EC2 does not show at all it has to miss
look after look (`sef.sightings`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.clock import Clock
from sef.cloud.ec2 import Ec2, Instance
from sef.config import Settings
from sef.core.inputs import Signal, SignalType
from sef.core.notices import Moment
from sef.core.policy import Goal, Kind, Outcome
from sef.setbacks import avoid_interrupted_pool
from sef.sightings import MISSING_FOR, Sight, note
from sef.store import fleet, incidents, replicas
from sef.store.database import Database
from sef.store.events import Event, write_events
from sef.store.fleet import Agent
from sef.store.replicas import Replica

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
            lambda c: fleet.silent_agents(c, self._silent_since(now), limit=AGENTS_PER_RUN)
        )
        found = 0
        for start in range(0, len(silent), PER_CALL):
            found += self._examine(silent[start : start + PER_CALL], now)
        return found

    def _silent_since(self, now: datetime) -> datetime:
        return now - timedelta(seconds=self.settings.loss_silence)

    def _examine(self, silent: Sequence[Agent], now: datetime) -> int:
        told = self.cloud.instances([a.instance_id for a in silent if a.instance_id])
        if self.database.read(lambda c: replicas.missed_before(c, told)):
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
        agent = fleet.read_agent(connection, told.id, lock=True)
        if agent != told or agent.instance_id is None:
            return False  # it has another primary, or has moved on otherwise: look again
        if fleet.heard_since(connection, agent.id, self._silent_since(now)):
            return False
        if instance is None and not self._is_forgotten(connection, agent.instance_id, now):
            return False
        incident = incidents.open_incident(connection, agent.id)
        if incident is not None and incident.is_emergency:
            return False
        state = instance.ec2_state if instance else "not there"
        reason = (
            f"EC2 reports {agent.instance_id} {state}, and the agent has been silent for "
            f"{self.settings.loss_silence:.0f} s or more"
        )
        inputs = {"ec2_state": state, "silent_for": self.settings.loss_silence}
        if incident is not None and incident.kind.is_planned:
            incidents.update_incident(
                connection, incident, status=Outcome.RELEASED, closed_at=now, reason=reason
            )
            incident = None
        if incident is None:
            incident = incidents.open_for_primary(connection, agent, now)
        incidents.record_signal(connection, incident, Signal(SignalType.LOSS, now), now)
        incidents.update_incident(
            connection,
            incident,
            kind=Kind.LOSS,
            goal=Goal.SWITCH,
            reason=reason,
            termination_at=now,
            deadline=now,
            inputs=inputs,
        )
        fleet.update_agent(connection, agent, now, not_before=None)
        avoid_interrupted_pool(connection, agent.pool_id, now, self.settings)
        event = Event(
            "unannounced_loss",
            reason,
            agent.id,
            "error",
            inputs,
            incident.id,
            moment=Moment.DETECTION,
        )
        write_events(connection, [event], now)
        return True

    def _is_forgotten(self, connection: Connection, instance_id: str, now: datetime) -> bool:
        """Whether EC2 has missed a primary that SEF launched, look after look.

        Another may never have existed, or not in this region: no evidence of a loss.
        """
        replica = replicas.replica_of_instance(connection, instance_id)
        return replica is not None and self._note(connection, replica, Sight.MISSING, now)

    def _found_again(
        self, connection: Connection, told: Mapping[str, Instance], now: datetime
    ) -> None:
        for replica in replicas.missed_before(connection, told):
            self._note(connection, replica, Sight.RUNS, now)

    def _note(self, connection: Connection, replica: Replica, sight: Sight, now: datetime) -> bool:
        every = timedelta(seconds=self.settings.loss_check_interval)
        seen = note(connection, replica, sight, now, every=every, patience=MISSING_FOR)
        return seen is Sight.GONE
