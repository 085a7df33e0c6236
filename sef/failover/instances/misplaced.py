"""Replace a ready standby that is where a cutover target cannot follow."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.failover.cutover.place import Constraint, left_behind
from sef.failover.incidents.rows import open_incident
from sef.failover.instances.attempts import attempts_of
from sef.failover.instances.candidates import LaunchOptions
from sef.failover.standbys.rows import live_standby, move_replica
from sef.terms import ReplicaStatus, parse_pool


def replace_misplaced(
    connection: Connection,
    agent_id: str,
    options: LaunchOptions,
    now: datetime,
    *,
    is_better_possible: bool,
) -> str | None:
    """Release the standby if a target cannot follow it, and another could be launched.

    Called when the targets change: a standby from before may be anywhere. During an emergency it is
    kept, since it may be the only instance to promote. Return a warning, or None if it is well
    placed.

    Args:
        is_better_possible: a standby may be launched in a pool where all targets can follow.
    """
    read_agent(connection, agent_id, lock=True)
    standby = live_standby(connection, agent_id)
    if standby is None or standby.status is not ReplicaStatus.READY:
        return None
    pool = parse_pool(standby.pool_id)
    parameters = [
        attempt.parameters
        for attempt in attempts_of(connection, standby.id)
        if attempt.instance_id == standby.instance_id
    ]
    if pool is None:
        return None
    left = _left(options, pool.zone, _subnet(parameters))
    if not left:
        return None
    targets = ", ".join(left)
    finding = f"{targets} cannot follow to the standby {standby.instance_id} in {pool}"
    incident = open_incident(connection, agent_id)
    is_emergency = incident is not None and incident.is_emergency
    if is_emergency or not is_better_possible:
        return finding
    move_replica(connection, standby, ReplicaStatus.RELEASING, finding, now, severity="warning")
    return f"{finding}; SEF releases it, and launches another where all can follow"


def _left(options: LaunchOptions, zone: str, subnet: str | None) -> list[str]:
    network = options.source.network
    vpc = network.vpc if network else None
    if subnet is not None:
        return left_behind(options.constraints, zone, subnet, vpc)
    # Launched by zone: its subnet is not known, and only the zones are compared.
    by_zone = [Constraint(b.target, b.place, b.zones) for b in options.constraints]
    return left_behind(by_zone, zone, None, vpc)


def _subnet(parameters: Sequence[Mapping[str, Any]]) -> str | None:
    for one in parameters:
        interfaces = one.get("NetworkInterfaces") or [{}]
        found = one.get("SubnetId") or interfaces[0].get("SubnetId")
        if found is not None:
            return str(found)
    return None
