"""Answer a signal with the action that SEF took, a message, and the ids of the rows involved."""

from enum import StrEnum
from typing import Any

from sqlalchemy import Connection

from sef.failover.incidents.rows import Incident, read_incident
from sef.failover.standbys.rows import Replica, latest_failed_replica, live_standby, relief_of
from sef.terms import Goal, IncidentStatus, ReplicaStatus


class Action(StrEnum):
    """The action that a signal led to."""

    MONITOR = "monitor"  # the risk is too low for a standby
    LAUNCHING = "replica_launching"  # a standby is launching; a termination promotes it when ready
    STANDBY_READY = (
        "standby_ready"  # a ready standby waits for a termination, auto-switch or an operator
    )
    PROMOTED = "promoted"  # the agent has a new primary
    WAITING = "waiting"  # a standby is needed but none can be launched now; SEF keeps trying
    STANDBY_REPLACED = "standby_replaced"  # the signal was about the standby
    RELEASED = "released"  # the incident is closed: no termination followed
    IGNORED = "ignored"  # the instance is not, or no longer, the agent's


def answer(connection: Connection, incident_id: str, *, about_standby: bool) -> dict[str, Any]:
    """Return the answer to a signal, from the state of its incident.

    Args:
        about_standby: the signal was about the standby, which SEF replaces.
    """
    incident = read_incident(connection, incident_id)
    standby, failed = None, None
    if incident.is_open or about_standby:
        standby = live_standby(connection, incident.agent_id)
    if about_standby:
        standby = relief_of(connection, incident.agent_id) or standby
    if incident.is_open and standby is None:
        failed = latest_failed_replica(connection, incident.agent_id)
    replica_id = incident.replica_id or (standby.id if standby and incident.is_open else None)
    if about_standby and standby is not None:
        replica_id = standby.id
    action, message = _outcome(incident, standby, failed, about_standby)
    return {
        "status": "success",
        "action": action,
        "incident_id": incident.id,
        "risk_score": incident.risk_score,
        "replica_id": replica_id,
        "new_instance_id": incident.new_instance_id,
        "failover_time_ms": incident.failover_time_ms,
        "message": message,
    }


def _outcome(
    incident: Incident, standby: Replica | None, failed: Replica | None, about_standby: bool
) -> tuple[Action, str]:
    if about_standby:
        return Action.STANDBY_REPLACED, f"{incident.reason}; SEF launches another"
    if incident.new_instance_id is not None:
        return Action.PROMOTED, f"{incident.new_instance_id} replaced {incident.subject}"
    if not incident.is_open:
        is_released = incident.status == IncidentStatus.RELEASED
        return (Action.RELEASED if is_released else Action.IGNORED), incident.reason
    if incident.goal is Goal.MONITOR:
        return Action.MONITOR, incident.reason
    if standby is None:
        cause = f" ({failed.reason})" if failed else ""
        return (
            Action.WAITING,
            f"{incident.reason}; no standby is available{cause}; SEF keeps trying",
        )
    if standby.status is ReplicaStatus.READY:
        return Action.STANDBY_READY, f"{incident.reason}; {standby.instance_id} is ready"
    if standby.instance_id is None and incident.status is IncidentStatus.NEEDS_OPERATOR:
        cause = f" ({incident.obstacle})" if incident.obstacle else ""
        message = f"{incident.reason}; no standby can be launched now{cause}; SEF keeps trying"
        return Action.WAITING, message
    use = "promoted when ready" if incident.goal is Goal.SWITCH else "kept as a standby"
    name = standby.instance_id or "a standby"
    return Action.LAUNCHING, f"{incident.reason}; {name} is launching, {use}"
