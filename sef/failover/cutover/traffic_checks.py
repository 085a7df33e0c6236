"""Check that a target group and a record can follow an agent's primary, before it is needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from sef.agents import Agent
from sef.cloud.attachments import Impossible
from sef.cloud.holders import ShownInstance
from sef.cloud.records import LEFT_BY_CHECKS, Record, simple_record, values_of
from sef.cloud.traffic import group_name
from sef.context import Context
from sef.db.tables import replica_instances
from sef.failover.cutover.traffic_memory import (
    TrafficBinding,
    binding_of,
    group_binding,
    record_binding,
    record_key,
)
from sef.terms import ReplicaStatus

LONG_TTL = 300
"""TTL in seconds beyond which clients keep the old address for longer than most owners expect."""


@dataclass(frozen=True, slots=True)
class TrafficCheck:
    """The obstacles to a target that follows the primary, and its bindings at the primary now."""

    warnings: Sequence[str] = ()
    bindings: Sequence[TrafficBinding] = ()


def check_group(ctx: Context, agent: Agent, arn: str) -> TrafficCheck:
    """Check that the primary and its standby can be registered in a target group.

    Raises:
        Impossible: the targets of the group are of another type.
        CloudError: the group does not exist, or AWS did not answer.
    """
    group = ctx.traffic.group(arn)
    if agent.instance_id is None:
        return TrafficCheck()
    warnings = [
        f"{instance_id} is in {one.vpc_id}, and the targets of {group_name(arn)} are in "
        f"{group.vpc_id}: it cannot be registered"
        for instance_id, one in _instances(ctx, agent).items()
        if None not in (one.vpc_id, group.vpc_id) and one.vpc_id != group.vpc_id
    ]
    return TrafficCheck(warnings, group_binding(ctx, agent, arn))


def check_record(ctx: Context, agent: Agent, dns: Any) -> TrafficCheck:
    """Check that a record can be set to the addresses of the primary and its standby.

    Raises:
        Impossible: the name is not in the zone, or the record is none that SEF can change.
        CloudError: the zone does not exist, or AWS did not answer.
    """
    name = dns["name"]
    zone = ctx.traffic.zone(dns["zone_id"])
    if not zone.has(name):
        raise Impossible(f"{name} is not in the zone {dns['zone_id']}, {zone.domain}")
    records = ctx.traffic.at_names(dns["zone_id"], [name], left=LEFT_BY_CHECKS)[name]
    record = simple_record(records, name, dns["type"])
    instances = _instances(ctx, agent)
    warnings = list(_ttl_warnings(dns, record))
    if dns["address"] == "private" and not zone.is_private:
        warnings.append(
            f"{zone.domain} is a public zone, and {name} gets a private address there: clients "
            'outside of the VPC cannot reach it; set "address" to "public", or use a private zone'
        )
    if dns["address"] == "public":
        warnings += [
            f"{instance_id} has no public IP address: SEF cannot set {name} to it"
            for instance_id, one in instances.items()
            if one.public_ip is None
        ]
    warnings += _value_warnings(ctx, agent, dns, values_of(record), instances)
    return TrafficCheck(warnings, record_binding(ctx, agent, dns, values_of(record)))


def _ttl_warnings(dns: Any, record: Record | None) -> Sequence[str]:
    ttl = dns.get("ttl")
    ttl = ttl if ttl is not None else (record or {}).get("TTL", 0)
    if ttl <= LONG_TTL:
        return []
    return [f"{dns['name']} has a TTL of {ttl} s: clients keep the old address for so long"]


def _value_warnings(
    ctx: Context,
    agent: Agent,
    dns: Any,
    values: Sequence[str],
    instances: dict[str, ShownInstance],
) -> Sequence[str]:
    """Return a warning if SEF does not know which of several values is the primary's."""
    primary = instances.get(agent.instance_id or "")
    if len(values) <= 1 or primary is None or primary.addresses & set(values):
        return []
    known = ctx.database.read(binding_of, agent.id, record_key(dns))
    if known is not None and set(known.addresses) & set(values):
        return []
    return [
        f"{dns['name']} has the values {', '.join(values)}, none of which is an address of "
        f"{agent.instance_id}: SEF does not know which one to replace, and would replace none"
    ]


def _instances(ctx: Context, agent: Agent) -> dict[str, ShownInstance]:
    """Return the primary and its ready standby, as far as EC2 shows them running."""
    standby = ctx.database.read(_ready_standby, agent.id)
    ids = [one for one in (agent.instance_id, standby) if one is not None]
    if not ids:
        return {}
    shown = ctx.attachments.shown(ids)
    return {i: shown[i] for i in ids if i in shown and shown[i].state == "running"}


def _ready_standby(connection: Connection, agent_id: str) -> str | None:
    replica = replica_instances.c
    found: str | None = connection.scalar(
        select(replica.instance_id)
        .where(replica.live_agent_id == agent_id)
        .where(replica.status == ReplicaStatus.READY)
    )
    return found
