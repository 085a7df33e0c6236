"""Remember how traffic is bound at an agent's primary, so that it is known after its end.

A target group no longer shows an instance that has ended, and EC2 no longer shows its addresses.
SEF stores the ports of the primary in each target group and its addresses in the record when the
targets are set, and whenever a step has bound them to a new primary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent
from sef.cloud.attachments import Impossible
from sef.cloud.errors import CloudError
from sef.cloud.records import simple_record, values_of
from sef.context import Context
from sef.db.statements import rows_where, upsert
from sef.db.tables import traffic_bindings


@dataclass(frozen=True, slots=True)
class TrafficBinding:
    """The ports or the addresses at which a target is bound at an instance.

    Attributes:
        target: ARN of the group, or `record_key`.
        ports: ports of the instance in the group.
        addresses: addresses of the instance that can be values of the record.
    """

    target: str
    instance_id: str
    ports: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()


def record_key(dns: Any) -> str:
    """Return the name under which the binding of a record is stored."""
    return f"{dns['zone_id']}/{dns['name']}"


def remember(
    connection: Connection, agent_id: str, bindings: Sequence[TrafficBinding], now: datetime
) -> None:
    """Store how targets of an agent are bound; one binding for each target, the last one."""
    rows = [
        {
            "agent_id": agent_id,
            "target": one.target,
            "instance_id": one.instance_id,
            "ports": list(one.ports),
            "addresses": list(one.addresses),
            "seen_at": now,
        }
        for one in bindings
    ]
    upsert(connection, traffic_bindings, rows)


def binding_of(connection: Connection, agent_id: str, target: str) -> TrafficBinding | None:
    """Return how a target was bound when it was seen last; None if it never was."""
    key = {"agent_id": agent_id, "target": target}
    row = rows_where(connection, traffic_bindings, key).one_or_none()
    if row is None:
        return None
    return TrafficBinding(target, row.instance_id, tuple(row.ports), tuple(row.addresses))


def remember_traffic(ctx: Context, agent: Agent) -> None:
    """Look how the traffic is bound at the primary now, and store it.

    A target that AWS does not show now keeps its last binding: the next look comes.
    """
    dns = (agent.cutover or {}).get("dns")
    seen: list[TrafficBinding] = []
    for group in (agent.cutover or {}).get("target_groups", []):
        try:
            seen += group_binding(ctx, agent, group["arn"])
        except CloudError:
            continue
    if dns is not None:
        try:
            records = ctx.traffic.at_names(dns["zone_id"], [dns["name"]], left=1)[dns["name"]]
            values = values_of(simple_record(records, dns["name"], dns["type"]))
            seen += record_binding(ctx, agent, dns, values)
        except (CloudError, Impossible):
            pass  # the record cannot be changed either
    store(ctx, agent, seen)


def group_binding(ctx: Context, agent: Agent, arn: str) -> list[TrafficBinding]:
    """Return the ports of the primary in a target group; nothing if it has none.

    Raises:
        CloudError: AWS refused the call or did not answer.
    """
    targets = ctx.traffic.targets(arn)
    ports = {t.port for t in targets if t.instance_id == agent.instance_id and t.is_registered}
    known = tuple(sorted(port for port in ports if port is not None))
    return [TrafficBinding(arn, str(agent.instance_id), ports=known)] if known else []


def record_binding(
    ctx: Context, agent: Agent, dns: Any, values: Collection[str]
) -> list[TrafficBinding]:
    """Return the addresses of the primary, if one of them is a value of the record.

    Raises:
        CloudError: EC2 refused the call or did not answer.
    """
    if agent.instance_id is None or not values:
        return []
    shown = ctx.attachments.shown([agent.instance_id]).get(agent.instance_id)
    if shown is None or not shown.addresses & set(values):
        return []
    return [
        TrafficBinding(record_key(dns), agent.instance_id, addresses=tuple(sorted(shown.addresses)))
    ]


def store(ctx: Context, agent: Agent, bindings: Sequence[TrafficBinding]) -> None:
    """Store bindings that were seen at the primary of an agent, in a transaction of their own."""
    if bindings:
        ctx.database.write(remember, agent.id, bindings, ctx.clock())
