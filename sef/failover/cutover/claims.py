"""Let each target belong to one agent: the agent that named it first.

Two agents with one target would take it from each other's healthy primary. Each target therefore
has a row in `target_claims` with a key of its own. The rows of an agent are written in the
transaction that stores its targets, so the database decides which of two agents that name a target
at the same time gets it.

Instances of several agents may be registered in one target group: it has no row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select

from sef.agents import Agent
from sef.db.database import VersionConflict
from sef.db.statements import change, insert_rows
from sef.db.tables import agents, target_claims
from sef.errors import Conflict
from sef.failover.cutover.targets import Targets
from sef.notifications.events import Event, write_once
from sef.terms import NotificationKind

UNKNOWN_VPC = "vpc-unknown"
"""Stands for the VPC of a private address while SEF does not know it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A target that belongs to one agent.

    Attributes:
        key: the kind and the name of the target, unique in the region.
        field: the path of its field, for messages.
        name: the name of the target in messages.
    """

    key: str
    field: str
    name: str


def claims_of(targets: Targets | None, vpc_id: str | None) -> list[Claim]:
    """Return the targets of an agent that no other agent may have.

    Args:
        vpc_id: the VPC of the primary, since two VPCs may have the same private address. None: not
            known.
    """
    if not targets:
        return []
    claims = []
    if "elastic_ip" in targets:
        claims.append(_claim("elastic_ip", targets["elastic_ip"]))
    if "private_ip" in targets:
        address = targets["private_ip"]
        key = private_ip_key(address, vpc_id)
        claims.append(Claim(key, "cutover.private_ip", address))
    if "network_interface" in targets:
        claims.append(_claim("network_interface", targets["network_interface"]["id"]))
    claims += [_claim("volumes", volume["id"]) for volume in targets.get("volumes", [])]
    for route in targets.get("routes", []):
        name = f"{route['route_table_id']} {route['destination_cidr']}"
        claims.append(Claim(f"routes {name}", "cutover.routes", name))
    if "dns" in targets:
        dns = targets["dns"]
        zone = dns["zone_id"].removeprefix("/hostedzone/")
        name = dns["name"].lower().removesuffix(".").replace("\\052", "*")
        claims.append(Claim(f"dns {zone} {name} {dns['type']}", "cutover.dns", name))
    return claims


def private_ip_key(address: str, vpc_id: str | None) -> str:
    """Return the key of a private address; None is an unknown VPC."""
    return f"private_ip {vpc_id or UNKNOWN_VPC} {address}"


def claim_targets(
    connection: Connection, agent_id: str, claims: Sequence[Claim], now: datetime
) -> None:
    """Give an agent these targets and free its others.

    A private address whose VPC is not known keeps the VPC that is known from before. A target of an
    agent whose row was deleted is free.

    Raises:
        Conflict: a target belongs to another agent.
        IntegrityError: another transaction has just claimed a target; `Database.write` repeats this
            one, which then finds the claim.
    """
    own = set(_keys_of(connection, agent_id))
    claims = [_with_known_vpc(claim, own) for claim in claims]
    wanted = {claim.key: claim for claim in claims}
    holders = holders_of_claims(connection, wanted, other_than=agent_id)
    for key, holder in sorted(holders.items()):
        if not connection.scalar(select(agents.c.id).where(agents.c.id == holder)):
            _take_over(connection, key, holder, agent_id, now)
            continue
        claim = wanted[key]
        raise Conflict(
            "target_of_other_agent",
            f"{claim.field}: {claim.name} is a target of {holder}, and a target belongs to one "
            f"agent. Remove it there first (PUT /api/agents/{holder}), or name another one.",
        )
    freed = sorted(own - wanted.keys())
    if freed:
        row = target_claims.c
        mine = row.agent_id == agent_id
        connection.execute(delete(target_claims).where(mine, row.target.in_(freed)))
    # In one order, so that two transactions do not wait for each other.
    for key in sorted(wanted.keys() - own - holders.keys()):
        values = {"target": key, "agent_id": agent_id, "claimed_at": now}
        insert_rows(connection, target_claims, values)


def complete_vpc(connection: Connection, agent: Agent, vpc_id: str | None, now: datetime) -> None:
    """Claim the agent's private address in its VPC, once that is known.

    If another agent has the address there, both keep it, and people are told once.
    """
    address = (agent.cutover or {}).get("private_ip")
    unknown = {"target": private_ip_key(str(address), None), "agent_id": agent.id}
    if address is None or vpc_id is None:
        return
    key = private_ip_key(address, vpc_id)
    other = holders_of_claims(connection, [key], other_than=agent.id).get(key)
    if other is None:
        change(connection, target_claims, unknown, target=key)
    elif unknown["target"] in _keys_of(connection, agent.id):
        event = Event(
            "target_shared",
            f"{address} is a target of {agent.id} and of {other}, and their primaries are in one "
            "VPC. At a promotion SEF takes it from no instance of the other agent: remove it from "
            "one of the two",
            agent.id,
            severity="warning",
            notification=NotificationKind.ALERT,
            matter=(key, other),
        )
        write_once(connection, event, now)


def holders_of_claims(
    connection: Connection, keys: Iterable[str], *, other_than: str
) -> Mapping[str, str]:
    """Return the agents that have targets with these keys, by key.

    Args:
        other_than: the agent whose own targets are left out.
    """
    claim, keys = target_claims.c, sorted(keys)
    if not keys:
        return {}
    rows = connection.execute(
        select(claim.target, claim.agent_id).where(
            claim.target.in_(keys), claim.agent_id != other_than
        )
    )
    return {row.target: row.agent_id for row in rows}


def uncertain_claims(connection: Connection, agent_id: str, claims: Iterable[Claim]) -> list[str]:
    """Return a warning if another agent has the private address in what may be the same VPC."""
    claim = target_claims.c
    address = next((one.name for one in claims if one.field == "cutover.private_ip"), None)
    if address is None:
        return []
    rows = connection.execute(
        select(claim.target, claim.agent_id).where(
            claim.target.startswith("private_ip ", autoescape=True),
            claim.target.endswith(f" {address}", autoescape=True),
        )
    ).all()
    is_known = not any(
        row.agent_id == agent_id and UNKNOWN_VPC in row.target.split(" ") for row in rows
    )
    return [
        f"cutover.private_ip: {address} is a target of {row.agent_id} too. SEF does not know if "
        "their primaries are in one VPC; if they are, remove it from one of the two."
        for row in rows
        if row.agent_id != agent_id and (not is_known or UNKNOWN_VPC in row.target.split(" "))
    ]


def _claim(field: str, name: str) -> Claim:
    return Claim(f"{field.removesuffix('s')} {name}", f"cutover.{field}", name)


def _keys_of(connection: Connection, agent_id: str) -> Iterable[str]:
    claim = target_claims.c
    return connection.scalars(select(claim.target).where(claim.agent_id == agent_id)).all()


def _with_known_vpc(claim: Claim, own: Iterable[str]) -> Claim:
    if UNKNOWN_VPC not in claim.key:
        return claim
    known = [key for key in own if key.startswith("private_ip ") and key.endswith(f" {claim.name}")]
    return Claim(known[0], claim.field, claim.name) if known else claim


def _take_over(connection: Connection, key: str, holder: str, agent_id: str, now: datetime) -> None:
    taken = change(
        connection,
        target_claims,
        {"target": key, "agent_id": holder},
        agent_id=agent_id,
        claimed_at=now,
    )
    if taken.rowcount != 1:
        raise VersionConflict  # another agent has taken it since
