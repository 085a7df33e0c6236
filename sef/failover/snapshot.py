"""Read the rows of one agent, and decide its next step from them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.agents import Agent, read_agent
from sef.failover.incidents.rows import Incident, latest_incident, open_incident
from sef.failover.incidents.signal_rows import end_of_notice
from sef.failover.policy import (
    AgentState,
    CreateRelief,
    CreateStandby,
    IncidentState,
    NextStep,
    Rest,
    Spare,
    next_step,
    step_beside_recommendation,
)
from sef.failover.standbys.backoff import is_relief_postponed
from sef.failover.standbys.retirements import running_retirements
from sef.failover.standbys.rows import Replica, current_replicas
from sef.terms import ReplicaStatus


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of an agent that decide its next step.

    Attributes:
        replicas: the replicas that are neither failed nor terminated.
        incident: the open incident.
        spares: the former primaries and released standbys that may be promoted, the best first.
            They are read only in an emergency without a ready standby.
    """

    agent: Agent
    replicas: Sequence[Replica]
    incident: Incident | None
    spares: Sequence[Spare] = ()

    @property
    def standby(self) -> Replica | None:
        return next((replica for replica in self.replicas if replica.live_agent_id), None)

    @property
    def relief(self) -> Replica | None:
        """The replica that launches beside the standby, to take its place."""
        return next((replica for replica in self.replicas if replica.relief_agent_id), None)

    @property
    def releasing(self) -> Sequence[Replica]:
        return [replica for replica in self.replicas if replica.status is ReplicaStatus.RELEASING]

    def restricted_to(self, running: Collection[str]) -> "Snapshot":
        """Return the snapshot without the spare instances that are not in `running`."""
        kept = [one for one in self.spares if one.instance_id in running]
        return replace(self, spares=kept)

    def wanted_step(self, now: datetime, standby_ttl: timedelta) -> NextStep:
        """Decide the next step towards the agent's goal, as if no work was postponed."""
        standby = self.standby
        incident = _incident_state(self.incident, self.agent) if self.incident else None
        step = next_step(
            _agent_state(self.agent, now),
            standby.status if standby else None,
            incident,
            standby_ttl=standby_ttl,
            now=now,
            spare=next(iter(self.spares), None),
            is_postponed=self.agent.is_postponed(now),
        )
        if standby is None or not _is_recommended(standby, now, standby_ttl):
            return step
        return step_beside_recommendation(
            step, incident, standby.replica_type, has_relief=self.relief is not None
        )

    def next_step(self, now: datetime, standby_ttl: timedelta) -> NextStep:
        """Decide the step to take now. While work is postponed, the agent gets no new standby."""
        step = self.wanted_step(now, standby_ttl)
        if isinstance(step, CreateStandby | CreateRelief) and self.agent.is_postponed(now):
            return Rest()
        standby = self.standby
        if (
            isinstance(step, CreateRelief)
            and standby is not None
            and is_relief_postponed(standby, now)
        ):
            return Rest()
        return step


def read_snapshot(connection: Connection, agent_id: str, *, lock: bool = False) -> Snapshot:
    """Read the snapshot of an agent.

    Args:
        lock: lock the agent's row, so that no other transaction decides for the agent until this
            one ends.

    Raises:
        AgentNotFound: there is no such agent.
    """
    if lock:
        agent = read_agent(connection, agent_id, lock=True)
        replicas = current_replicas(connection, agent_id)
    else:
        # Read the replicas first: if another worker promotes the standby between the two reads,
        # the snapshot still has it as the standby, and not as a former primary.
        replicas = current_replicas(connection, agent_id)
        agent = read_agent(connection, agent_id)
    snapshot = Snapshot(agent, replicas, open_incident(connection, agent_id))
    return with_spares(connection, snapshot)


def with_spares(connection: Connection, snapshot: Snapshot) -> Snapshot:
    """Add the instances that may be promoted although they are not needed, if one may be."""
    agent, incident, standby = snapshot.agent, snapshot.incident, snapshot.standby
    is_standby_ready = standby is not None and standby.status is ReplicaStatus.READY
    if incident is None or not incident.is_emergency or is_standby_ready:
        return snapshot
    former = [
        retirement.instance_id
        for retirement in running_retirements(connection, agent.id)
        if retirement.was_primary and retirement.call_at is None and not retirement.missed_checks
    ]
    released = [
        replica.instance_id
        for replica in snapshot.releasing
        if replica.instance_id is not None and replica.call_at is None and not replica.misses
    ]
    spares = [
        Spare(
            instance_id,
            is_recommended=signalled is not None and signalled.rebalance_at is not None,
        )
        for instance_id in [*released, *former]
        for signalled in [latest_incident(connection, agent.id, instance_id)]
        if signalled is None or end_of_notice(connection, signalled) is None
    ]
    return replace(snapshot, spares=sorted(spares, key=lambda spare: spare.is_recommended))


def _is_recommended(standby: Replica, now: datetime, standby_ttl: timedelta) -> bool:
    """Return True for a ready standby with a recommendation that has not expired."""
    return (
        standby.status is ReplicaStatus.READY
        and standby.recommended_at is not None
        and now - standby.recommended_at < standby_ttl
    )


def _agent_state(agent: Agent, now: datetime) -> AgentState:
    return AgentState(
        manual=agent.manual_replica_enabled,
        auto_switch=agent.auto_switch_enabled,
        auto_terminate=agent.auto_terminate_enabled,
        on_probation=agent.probation_until is not None and now < agent.probation_until,
    )


def _incident_state(incident: Incident, agent: Agent) -> IncidentState:
    return IncidentState(
        goal=incident.goal,
        rebalance_at=incident.rebalance_at,
        concerns_primary=agent.is_subject(incident.subject),
        is_planned=incident.kind.is_planned,
        had_standby=incident.replica_id is not None,
        deadline=incident.deadline,
    )
