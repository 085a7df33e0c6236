"""What the API shows: one agent, the fleet, a series, the history."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent
from sef.clock import iso
from sef.failover.cutover.rows import Cutover, latest_cutover, steps_of
from sef.failover.incidents.rows import Incident
from sef.failover.policy import CreateStandby, NextStep
from sef.failover.snapshot import Snapshot, read_snapshot
from sef.failover.standbys.retirements import planned_retirements
from sef.failover.standbys.rows import Replica
from sef.prices.reports import data_quality
from sef.terms import Goal, ReplicaStatus


def agent_status(
    connection: Connection, agent_id: str, now: datetime, standby_ttl: timedelta
) -> dict[str, Any]:
    """Return the fields of `sef-status` for an agent."""
    snapshot = read_snapshot(connection, agent_id)
    agent, standby, incident = snapshot.agent, snapshot.standby, snapshot.incident
    cutover = latest_cutover(connection, agent_id)
    return {
        "agent": agent_fields(agent),
        "mode": agent.mode,
        "replica": replica_fields(standby) if standby else None,
        "former_primaries": _former_primaries(connection, snapshot),
        "no_standby": _no_standby(snapshot, now, standby_ttl),
        "data_quality": data_quality(connection, agent_id),
        "incident": incident_fields(incident) if incident else None,
        "cutover": cutover_fields(connection, cutover) if cutover else None,
    }


def _no_standby(snapshot: Snapshot, now: datetime, standby_ttl: timedelta) -> dict[str, Any] | None:
    """Return why no standby is ready and when SEF tries again; None while one is ready."""
    agent, standby, incident = snapshot.agent, snapshot.standby, snapshot.incident
    until = agent.not_before if agent.is_postponed(now) else None
    found = why_no_standby(
        snapshot.wanted_step(now, standby_ttl),
        (standby.status, standby.instance_id) if standby else None,
        (until, agent.put_off_because) if until else None,
        incident.reason if incident and incident.goal is Goal.MONITOR else None,
    )
    if found is None:
        return None
    return {"reason": found.reason, "next_try_at": iso(found.next_try_at)}


def agent_fields(agent: Agent) -> dict[str, Any]:
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


@dataclass(frozen=True, slots=True)
class NoStandby:
    reason: str
    next_try_at: datetime | None
    """When the next one is tried, where that has to be waited for."""


def why_no_standby(
    step: NextStep,
    standby: tuple[ReplicaStatus, str | None] | None,
    put_off: tuple[datetime, str | None] | None,
    monitored: str | None,
) -> NoStandby | None:
    """None while a standby is ready.

    Args:
        step: what the policy wants next for the agent.
        standby: the live one's status and instance.
        put_off: until when the agent's work rests, and why.
        monitored: why the open incident asks for none, if it does not.
    """
    if standby is not None and standby[0] is ReplicaStatus.READY:
        return None
    if standby is not None and standby[1] is not None:
        return NoStandby(f"{standby[1]} is launching", None)
    if standby is None and not isinstance(step, CreateStandby):
        return NoStandby(monitored or "nothing asks for a standby", None)
    if put_off is not None:
        return NoStandby(put_off[1] or "it was put off", put_off[0])
    wanted = f": {step.reason}" if isinstance(step, CreateStandby) else ""
    return NoStandby(f"one is about to be launched{wanted}", None)


def _former_primaries(connection: Connection, snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return the former primaries that SEF launched and that still run, as far as is known.

    `terminated_at` is the earliest time at which SEF terminates one; None if SEF leaves it to its
    operator.
    """
    due = planned_retirements(connection, snapshot.agent.id)
    return [
        {
            "instance_id": replica.instance_id,
            "pool_id": replica.pool_id,
            "promoted_at": iso(replica.promoted_at),
            "terminated_at": iso(due.get(replica.instance_id or "")),
        }
        for replica in snapshot.former_primaries
    ]
