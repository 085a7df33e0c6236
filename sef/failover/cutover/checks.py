"""Check that an agent's cutover targets can follow its primary, before a promotion needs them.

The results are warnings only: a problem may be repaired before the next promotion. Each target is
compared with the primary and with the standby that there is. A target without a problem that is not
at the primary gets a warning that says where it is.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent
from sef.cloud.attachments import Impossible, NotReady
from sef.cloud.errors import CloudError, Remedy
from sef.context import Context
from sef.failover.cutover.carriers import holder_name
from sef.failover.cutover.claims import holders_of_claims, private_ip_key
from sef.failover.cutover.formers import unrelated_to
from sef.failover.cutover.possible import (
    Place,
    address_problems,
    interface_problems,
    private_ip_problems,
    volume_problems,
)
from sef.failover.cutover.refusals import refusals
from sef.failover.cutover.rows import bindings_of, open_cutover
from sef.failover.cutover.targets import Targets
from sef.failover.cutover.traffic_checks import check_group, check_record
from sef.failover.cutover.traffic_memory import TrafficBinding, store
from sef.failover.cutover.where import describe_place
from sef.terms import StepKind, parse_pool


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """Result of checking an agent's targets in AWS.

    Attributes:
        zones: zone of each volume and network interface; neither can leave its zone.
        holders: the instances that have each target, by the name of the target.
        stuck: the names of the targets that cannot follow, or whose holders are not known.
        bindings: how the traffic is bound at the primary now.
    """

    warnings: tuple[str, ...] = ()
    zones: Mapping[str, str] = field(default_factory=dict)
    holders: Mapping[str, frozenset[str]] = field(default_factory=dict)
    stuck: frozenset[str] = frozenset()
    bindings: tuple[TrafficBinding, ...] = ()

    def in_pool(self, pool_id: str | None) -> list[str]:
        """Return the warnings for a primary in a pool."""
        pool = parse_pool(pool_id)
        misplaced = [
            f"{name} is in {zone} and the primary in {pool.zone}: it cannot leave its zone"
            for name, zone in self.zones.items()
            if pool is not None and zone != pool.zone
        ]
        return [*self.warnings, *misplaced]

    def left_with(self, instance_id: str, pool_id: str | None) -> list[str]:
        """Return the targets that a former primary keeps after a switch to a pool."""
        pool = parse_pool(pool_id)
        left = []
        for name in self.holders.keys() | self.stuck:
            zone = self.zones.get(name.rpartition(" ")[2])
            is_misplaced = pool is not None and zone not in (None, pool.zone)
            if name not in self.holders:
                left.append(f"{name}, as far as SEF can see")
            elif instance_id in self.holders[name] and (name in self.stuck or is_misplaced):
                left.append(name)
        return sorted(left)


@dataclass(slots=True)
class _Notes:
    """The facts about all targets that one check collects."""

    places: Sequence[Place]
    zones: dict[str, str] = field(default_factory=dict)
    holders: dict[str, frozenset[str]] = field(default_factory=dict)
    bindings: list[TrafficBinding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """Warnings that do not keep a target from following."""
    shared: list[tuple[str, str]] = field(default_factory=list)
    """Claims that overlap with a target, and the sentence about each."""

    @property
    def vpc_id(self) -> str | None:
        return next((p.instance.vpc_id for p in self.places if p.instance.vpc_id), None)


STANDBY = "the standby"

_Look = Callable[[], Sequence[str]]
"""Looks at a target in AWS and returns its problems."""


def target_warnings(ctx: Context, agent: Agent, standby_id: str | None = None) -> list[str]:
    """Return the problems that keep targets from following a primary in the current pool.

    Store how the traffic is bound at the primary (`sef.failover.cutover.traffic_memory`).
    """
    check = check_targets(ctx, agent, standby_id)
    store(ctx, agent, check.bindings)
    return check.in_pool(agent.pool_id)


def check_targets(ctx: Context, agent: Agent, standby_id: str | None = None) -> TargetCheck:
    """Check the agent's targets in AWS. Errors of AWS become warnings.

    Args:
        standby_id: the instance of its standby, if there is one.
    """
    if agent.cutover is None:
        return TargetCheck()
    warnings: list[str] = []
    stuck: set[str] = set()
    seen: list[tuple[str, str]] = []
    notes = _Notes(_places(ctx, agent.instance_id, standby_id))
    for place in notes.places:
        if place.instance.is_root_on_instance_store and "volumes" in agent.cutover:
            warnings.append(
                f"cutover.volumes: the root of {place.name} is on instance store: what is on it "
                "ends with the instance"
            )
    for field_name, name, look in _looks(ctx, agent, agent.cutover, notes):
        try:
            problems = look()
        except NotReady:
            continue  # the primary to compare with is not known yet
        except Impossible as error:
            problems = [str(error)]
        except CloudError as error:
            warnings.append(f"cutover.{field_name}: {error}")
            stuck.add(name)
            if error.remedy is Remedy.WAIT:
                warnings.append("AWS did not return a usable answer; other targets not checked")
                break
            continue
        warnings += [f"cutover.{field_name}: {_subject(name, text)}" for text in problems]
        if problems:
            stuck.add(name)
        else:
            seen.append((field_name, name))
    warnings += notes.remarks
    warnings += _refused(ctx, agent, notes, told=[text.partition(":")[0] for text in warnings])
    warnings += ctx.database.read(_where, agent, notes, seen)
    warnings += ctx.database.read(_shared, agent.id, notes)
    return TargetCheck(
        tuple(warnings),
        notes.zones,
        notes.holders,
        frozenset(stuck),
        tuple(notes.bindings),
    )


def _refused(ctx: Context, agent: Agent, notes: _Notes, told: Collection[str]) -> list[str]:
    """Return why AWS would refuse a target to the standby, for fields without another warning.

    A target that cannot leave its zone has a warning about the pool of the standby.
    """
    standby = next((place.instance for place in notes.places if place.role == STANDBY), None)
    if standby is None or any(zone != standby.zone for zone in notes.zones.values()):
        return []
    bindings = ctx.database.read(bindings_of, agent.id)
    found = refusals(ctx, agent.cutover or {}, bindings, standby.id)
    return [text for text in found if text.partition(":")[0] not in told]


def _places(ctx: Context, primary: str | None, standby: str | None) -> Sequence[Place]:
    """Return the primary and the standby as far as EC2 shows them."""
    roles = {primary: "the primary", standby: STANDBY}
    ids = [instance_id for instance_id in roles if instance_id is not None]
    try:
        facts = ctx.attachments.instance_facts(ids) if ids else {}
    except CloudError:
        return []  # the targets themselves can still be checked
    return [Place(roles[i], facts[i]) for i in ids if i in facts]


def _looks(
    ctx: Context, agent: Agent, targets: Targets, notes: _Notes
) -> Iterator[tuple[str, str, _Look]]:
    """Yield the field and the name of each target, and a look at it."""
    if "elastic_ip" in targets:
        address = targets["elastic_ip"]
        name = _name(StepKind.ELASTIC_IP, address)
        yield "elastic_ip", name, partial(_look_at_address, ctx, notes, name, address)
    for volume in targets.get("volumes", []):
        name = _name(StepKind.VOLUME, volume)
        yield "volumes", name, partial(_look_at_volume, ctx, notes, name, volume)
    if "network_interface" in targets:
        interface = targets["network_interface"]
        name = _name(StepKind.NETWORK_INTERFACE, interface)
        yield "network_interface", name, partial(_look_at_interface, ctx, notes, name, interface)
    if "private_ip" in targets and notes.places:
        address = targets["private_ip"]
        name = _name(StepKind.PRIVATE_IP, address)
        yield "private_ip", name, partial(_look_at_private_ip, ctx, notes, name, address)
    for group in targets.get("target_groups", []):
        name = _name(StepKind.REGISTER, group)
        yield "target_groups", name, partial(_look_at_group, ctx, agent, notes, name, group["arn"])
    for route in targets.get("routes", []):
        name = _name(StepKind.ROUTE, route)
        yield "routes", name, partial(_look_at_route, ctx, notes, name, route)
    if "dns" in targets:
        dns = targets["dns"]
        name = _name(StepKind.DNS, dns)
        yield "dns", name, partial(_look_at_record, ctx, agent, notes, name, dns)


def _look_at_address(ctx: Context, notes: _Notes, name: str, allocation_id: str) -> Sequence[str]:
    attachments = ctx.attachments
    address = attachments.address_facts(allocation_id)
    interface = None
    if address.interface_id is not None and address.instance_id is None:
        interface = attachments.interface_facts(address.interface_id)
        notes.holders[name] = interface.holders
    else:
        notes.holders[name] = frozenset({address.instance_id} if address.instance_id else ())
    if address.interface_id is not None:
        key = f"network_interface {address.interface_id}"
        notes.shared.append((key, f"{allocation_id} is on {address.interface_id}"))
    groups: Mapping[str, str] = {}
    if address.border_group is not None:
        with suppress(CloudError):  # without the right to ask, the switch will show it
            groups = ctx.places.border_groups()
    return list(address_problems(address, interface, notes.places, groups))


def _look_at_volume(
    ctx: Context, notes: _Notes, name: str, target: Mapping[str, Any]
) -> Sequence[str]:
    volume = ctx.attachments.volume_facts(target["id"])
    notes.zones[target["id"]] = volume.zone
    notes.holders[name] = volume.holders
    return list(volume_problems(target["id"], volume, target["device"], notes.places))


def _look_at_interface(
    ctx: Context, notes: _Notes, name: str, target: Mapping[str, Any]
) -> Sequence[str]:
    interface = ctx.attachments.interface_facts(target["id"])
    notes.zones[target["id"]] = interface.zone
    notes.holders[name] = interface.holders
    on_it = {f"elastic_ip {one}": one for one in interface.allocations}
    for address in interface.addresses:
        on_it[private_ip_key(address, interface.vpc_id)] = address
    notes.shared += [(key, f"{one} is on {target['id']}") for key, one in sorted(on_it.items())]
    return list(interface_problems(interface, target["device_index"], notes.places))


def _look_at_private_ip(ctx: Context, notes: _Notes, name: str, address: str) -> Sequence[str]:
    attachments = ctx.attachments
    interface = None
    if notes.vpc_id is not None:
        interface = attachments.interface_with_address(address, notes.vpc_id)
    notes.holders[name] = frozenset() if interface is None else interface.holders
    if interface is not None:
        key = f"network_interface {interface.id}"
        notes.shared.append((key, f"{address} is on {interface.id}"))
    subnets = {p.instance.subnet_id for p in notes.places if p.instance.subnet_id is not None}
    blocks = attachments.subnet_blocks(subnets)
    return list(private_ip_problems(address, interface, notes.places, blocks))


def _look_at_group(ctx: Context, agent: Agent, notes: _Notes, name: str, arn: str) -> Sequence[str]:
    check = check_group(ctx, agent, arn)
    notes.bindings += check.bindings
    notes.remarks += [f"cutover.target_groups: {warning}" for warning in check.warnings]
    notes.holders[name] = frozenset(ctx.traffic.holders_of_group(arn))
    return []


def _look_at_route(
    ctx: Context, notes: _Notes, name: str, route: Mapping[str, Any]
) -> Sequence[str]:
    table, destination = route["route_table_id"], route["destination_cidr"]
    ctx.routes.check_route(table, destination)
    notes.holders[name] = frozenset(ctx.routes.holders_of_route(table, destination))
    return []


def _look_at_record(
    ctx: Context, agent: Agent, notes: _Notes, name: str, dns: Mapping[str, Any]
) -> Sequence[str]:
    check = check_record(ctx, agent, dns)
    notes.bindings += check.bindings
    values = ctx.traffic.addresses_of_record(dns["zone_id"], dns["name"], dns["type"])
    holders = {p.instance.id for p in notes.places if p.instance.addresses & values}
    if not holders and len(values) == 1:
        holders = ctx.attachments.instances_with_address(values, notes.vpc_id)
    notes.holders[name] = frozenset(holders)
    if not holders and len(values) > 1:
        return check.warnings  # the values are those of others: there is nothing to take
    notes.remarks += [f"cutover.dns: {warning}" for warning in check.warnings]
    return []


def _where(
    connection: Connection, agent: Agent, notes: _Notes, seen: Sequence[tuple[str, str]]
) -> list[str]:
    """Return a warning for each target that is not at the primary.

    A target that an open cutover is about to move from an instance of the agent gets none.
    """
    primary = next((p.instance.id for p in notes.places if p.role == "the primary"), None)
    if primary is None:
        return []
    is_moving = open_cutover(connection, agent.id) is not None
    warnings = []
    for field_name, name in seen:
        holders = notes.holders.get(name, frozenset())
        unrelated = unrelated_to(connection, agent.id, holders)
        place = describe_place(name, holders, primary, unrelated)
        if place is not None and (unrelated or not is_moving):
            warnings.append(f"cutover.{field_name}: {place}")
    return warnings


def _shared(connection: Connection, agent_id: str, notes: _Notes) -> list[str]:
    """Return a warning for each interface and address on it that belong to two agents."""
    sentences = dict(notes.shared)
    others = holders_of_claims(connection, sentences, other_than=agent_id)
    return [
        f"cutover: {sentences[key]}, and {key.split(' ')[-1]} is a target of {other}. Each of the "
        "two agents moves its target and takes the other's with it; name both in one agent"
        for key, other in sorted(others.items())
    ]


def _name(kind: StepKind, target: Any) -> str:
    return str(holder_name(kind, target))


def _subject(name: str, problem: str) -> str:
    """Return a problem as a sentence that names its target."""
    target = name.partition(" ")[2]
    return problem if target in problem else f"{target}: {problem}"
