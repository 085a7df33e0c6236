"""The state of an agent as answers show it, with the reason why no standby is ready."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent
from sef.clock import iso
from sef.failover.cutover.rows import Cutover, latest_cutover, steps_of
from sef.failover.cutover.upkeep import whereabouts
from sef.failover.incidents.rows import Incident
from sef.failover.instances.kept_orphans import kept_of
from sef.failover.policy import CreateStandby, NextStep
from sef.failover.retention import DRAINS, LEFT
from sef.failover.snapshot import Snapshot, read_snapshot
from sef.failover.standbys.retirements import running_retirements
from sef.failover.standbys.rows import Replica
from sef.prices.reports import data_quality
from sef.terms import Goal, ReplicaStatus


@dataclass(frozen=True, slots=True)
class Postponement:
    """Work of an agent that SEF retries later."""

    until: datetime
    reason: str | None


@dataclass(frozen=True, slots=True)
class NoStandby:
    """The reason why no standby is ready."""

    reason: str
    next_try_at: datetime | None
    """Time until which the next launch is postponed; None: it is not postponed."""


def agent_status(
    connection: Connection, agent_id: str, now: datetime, standby_ttl: timedelta
) -> dict[str, Any]:
    """Return the fields of `sef-status` for an agent.

    Raises:
        AgentNotFound: no agent has this id.
    """
    snapshot = read_snapshot(connection, agent_id)
    agent, standby, incident = snapshot.agent, snapshot.standby, snapshot.incident
    cutover = latest_cutover(connection, agent_id)
    return {
        "agent": agent_fields(agent),
        "mode": agent.mode,
        "replica": replica_fields(standby) if standby else None,
        "other_replicas": _other_replicas(snapshot),
        "former_primaries": _former_primaries(connection, snapshot),
        "orphans": kept_of(connection, agent_id),
        "no_standby": _no_standby(snapshot, now, standby_ttl),
        "data_quality": data_quality(connection, agent_id),
        "incident": incident_fields(incident) if incident else None,
        "cutover": cutover_fields(connection, cutover) if cutover else None,
        "targets": whereabouts(connection, agent_id),
    }


def agent_fields(agent: Agent) -> dict[str, Any]:
    """Return the fields of `agent` in an answer."""
    return {
        "id": agent.id,
        "instance_id": agent.instance_id,
        "pool_id": agent.pool_id,
        "auto_switch_enabled": agent.auto_switch_enabled,
        "auto_terminate_enabled": agent.auto_terminate_enabled,
        "manual_replica_enabled": agent.manual_replica_enabled,
        "launch_template": agent.launch_template,
        "epoch": agent.epoch,
        "probation_until": iso(agent.probation_until),
        "drill_interval": agent.drill_interval,
        "next_drill_at": iso(agent.next_drill_at),
        "cutover": agent.cutover,
        "created_at": iso(agent.created_at),
        "updated_at": iso(agent.updated_at),
    }


def replica_fields(replica: Replica) -> dict[str, Any]:
    """Return the fields of `replica`, the standby, in an answer."""
    return {
        "id": replica.id,
        "instance_id": replica.instance_id,
        "replica_type": replica.replica_type,
        "pool_id": replica.pool_id,
        "market": replica.market,
        "status": replica.status,
        "reason": replica.reason,
        "created_at": iso(replica.created_at),
        "ready_at": iso(replica.ready_at),
    }


def incident_fields(incident: Incident) -> dict[str, Any]:
    """Return the fields of `incident`, the open incident, in an answer."""
    return {
        "id": incident.id,
        "instance_id": incident.instance_id,
        "pool_id": incident.pool_id,
        "kind": incident.kind,
        "status": incident.status,
        "goal": incident.goal,
        "reason": incident.reason,
        "obstacle": incident.obstacle,
        "risk_score": incident.risk_score,
        "opened_at": iso(incident.opened_at),
        "deadline": iso(incident.deadline),
    }


def cutover_fields(connection: Connection, cutover: Cutover) -> dict[str, Any]:
    """Return the fields of `cutover` and of its steps in an answer."""
    return {
        "id": cutover.id,
        "epoch": cutover.epoch,
        "incident_id": cutover.incident_id,
        "old_instance_id": cutover.old_instance_id,
        "new_instance_id": cutover.new_instance_id,
        "status": cutover.status,
        "deadline": iso(cutover.deadline),
        "is_hurried": cutover.is_hurried,
        "started_at": iso(cutover.started_at),
        "served_at": iso(cutover.traffic_moved_at),
        "finished_at": iso(cutover.finished_at),
        "steps": [
            {
                "kind": step.kind,
                "target": step.target,
                "status": step.status,
                "attempts": step.attempts,
                "latency_ms": step.latency_ms,
                "error": step.error,
            }
            for step in steps_of(connection, cutover.id)
        ],
    }


def why_no_standby(
    step: NextStep,
    status: ReplicaStatus | None,
    instance_id: str | None,
    postponement: Postponement | None,
    monitoring_reason: str | None,
) -> NoStandby | None:
    """Return the reason why no standby is ready, or None while one is.

    Args:
        step: the step that the agent's goal requires next, postponed or not.
        status: the status of the agent's standby; None without a standby.
        instance_id: the instance of the standby; None before its launch.
        postponement: the postponement of the agent's work; None if it is not postponed.
        monitoring_reason: the reason why the open incident requires no standby; None if it
            requires one.
    """
    if status is ReplicaStatus.READY:
        return None
    if instance_id is not None:
        return NoStandby(f"{instance_id} is launching", None)
    if status is None and not isinstance(step, CreateStandby):
        return NoStandby(monitoring_reason or "no mode or incident requires a standby", None)
    if postponement is not None:
        return NoStandby(postponement.reason or "the launch is postponed", postponement.until)
    cause = f": {step.reason}" if isinstance(step, CreateStandby) else ""
    return NoStandby(f"SEF is about to launch a standby{cause}", None)


def _no_standby(snapshot: Snapshot, now: datetime, standby_ttl: timedelta) -> dict[str, Any] | None:
    """Return the fields of `no_standby` in an answer; None while a standby is ready."""
    agent, standby, incident = snapshot.agent, snapshot.standby, snapshot.incident
    postponement = None
    if agent.not_before is not None and agent.is_postponed(now):
        postponement = Postponement(agent.not_before, agent.put_off_because)
    no_standby = why_no_standby(
        snapshot.wanted_step(now, standby_ttl),
        standby.status if standby else None,
        standby.instance_id if standby else None,
        postponement,
        incident.reason if incident and incident.goal is Goal.MONITOR else None,
    )
    if no_standby is None:
        return None
    return {"reason": no_standby.reason, "next_try_at": iso(no_standby.next_try_at)}


def _other_replicas(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return the replicas that may run beside the standby, with the reason."""
    relief = [snapshot.relief] if snapshot.relief else []
    is_emergency = snapshot.incident is not None and snapshot.incident.is_emergency
    why = "SEF keeps it until the primary is replaced" if is_emergency else "SEF terminates it"
    released = [replica_fields(replica) | {"reason": why} for replica in snapshot.releasing]
    return [*map(replica_fields, relief), *released]


def _former_primaries(connection: Connection, snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return the former primaries that still run, as far as SEF knows, with the reason.

    `terminated_at` is the earliest time at which SEF terminates the instance; None if AWS or the
    operator terminates it.
    """
    promoted_at = {replica.instance_id: replica.promoted_at for replica in snapshot.replicas}
    return [
        {
            "instance_id": retirement.instance_id,
            "pool_id": retirement.pool_id,
            "promoted_at": iso(promoted_at.get(retirement.instance_id)),
            "terminated_at": iso(retirement.terminate_after),
            "reason": retirement.kept_because
            or (LEFT if retirement.terminate_after is None else DRAINS),
        }
        for retirement in running_retirements(connection, snapshot.agent.id)
    ]
