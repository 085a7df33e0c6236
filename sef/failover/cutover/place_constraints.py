"""Ask AWS where the cutover targets of an agent can follow: the constraint of each on the place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from sef.cloud.errors import CloudError
from sef.cloud.likeness import LaunchConfiguration
from sef.context import Context
from sef.failover.cutover.place import Constraint
from sef.failover.cutover.targets import Targets

ANYWHERE = "any pool"
"""Place of a target that AWS does not restrict, or does not know."""


def constraints_of(
    ctx: Context,
    targets: Targets | None,
    source: LaunchConfiguration,
    known: Mapping[str, Constraint],
    *,
    only_missing: bool,
) -> Sequence[Constraint]:
    """Return the constraint of each target on the place of a new primary.

    A target that AWS does not show keeps the constraint that is known; one that was never seen has
    none. A standby is needed all the same, and the checks of the targets report the error.

    Args:
        known: the constraints that were stored, by target.
        only_missing: do not ask about a target whose constraint is known.
    """
    if not targets:
        return []
    found: list[Constraint] = []
    address = targets.get("private_ip")
    if address is not None:
        constraint = _of_private_ip(address, source, known)
        found += [constraint] if constraint is not None else []
    for names, ask in _look_ups(ctx, targets):
        if only_missing and all(name in known for name in names):
            found += [known[name] for name in names]
            continue
        try:
            answers = ask()
        except CloudError:
            found += [known[name] for name in names if name in known]
            continue
        found += answers
        # A target without a restriction is stored too: an emergency need not ask about it again.
        restricted = {constraint.target for constraint in answers}
        found += [Constraint(name, ANYWHERE) for name in names if name not in restricted]
    return found


def _of_private_ip(
    address: str, source: LaunchConfiguration, known: Mapping[str, Constraint]
) -> Constraint | None:
    """Return the subnet of a private address: the one whose block contains it.

    Without the blocks, it is the subnet of the interface that has the address, or the one that was
    stored, or else the primary's own.
    """
    name, network = f"private_ip {address}", source.network
    if network is None:
        return known.get(name)
    subnet = network.subnet_of(address) or network.subnet(source.addresses.get(address))
    if subnet is None and name in known:
        return known[name]
    if subnet is None and all(one.block is None for one in network.subnets):
        subnet = network.subnet(network.own)
    if subnet is None:
        return None  # in no subnet of the VPC: it can follow nowhere
    place = f"{subnet.id} in {subnet.zone}"
    return Constraint(name, place, frozenset({subnet.zone}), subnet.id, network.vpc)


def _look_ups(
    ctx: Context, targets: Targets
) -> Iterator[tuple[Sequence[str], Callable[[], Sequence[Constraint]]]]:
    """Yield names of targets, and a call that returns their constraints."""
    places = ctx.places
    volumes = [volume["id"] for volume in targets.get("volumes", [])]
    if volumes:
        names = [f"volumes {volume}" for volume in volumes]
        yield names, partial(_in_zones, "volumes", volumes, places.zones_of_volumes)
    if "network_interface" in targets:
        interface = targets["network_interface"]["id"]
        yield (
            [f"network_interface {interface}"],
            partial(_in_zones, "network_interface", [interface], places.zones_of_interfaces),
        )
    if "elastic_ip" in targets:
        allocation = targets["elastic_ip"]
        yield [f"elastic_ip {allocation}"], partial(_of_address, ctx, allocation)
    if "routes" in targets:
        yield [route_name(route) for route in targets["routes"]], partial(_of_tables, ctx, targets)
    arns = [group["arn"] for group in targets.get("target_groups", [])]
    if arns:
        yield [f"target_groups {arn}" for arn in arns], partial(_of_groups, ctx, arns)


def _of_tables(ctx: Context, targets: Targets) -> Sequence[Constraint]:
    tables = [route["route_table_id"] for route in targets["routes"]]
    vpcs = ctx.routes.vpc_of_tables(tables)
    return [
        Constraint(route_name(route), vpcs[table], None, None, vpcs[table])
        for route in targets["routes"]
        for table in [route["route_table_id"]]
        if table in vpcs
    ]


def route_name(route: Mapping[str, str]) -> str:
    """Return the name of a route in constraints and warnings."""
    return f"routes {route['route_table_id']} {route['destination_cidr']}"


def _in_zones(
    field: str, ids: Sequence[str], zones_of: Callable[[Sequence[str]], Mapping[str, str]]
) -> Sequence[Constraint]:
    zones = zones_of(ids)
    return [Constraint(f"{field} {one}", zone, frozenset({zone})) for one, zone in zones.items()]


def _of_address(ctx: Context, allocation_id: str) -> Sequence[Constraint]:
    zones = ctx.places.zones_of_address(allocation_id)
    if zones is None:
        return []
    return [Constraint(f"elastic_ip {allocation_id}", ", ".join(sorted(zones)), zones)]


def _of_groups(ctx: Context, arns: Sequence[str]) -> Sequence[Constraint]:
    constraints = []
    for arn, (vpc, zones) in ctx.places.places_of_groups(arns).items():
        place = f"{vpc}, in {', '.join(sorted(zones))}" if zones else str(vpc)
        constraints.append(Constraint(f"target_groups {arn}", place, zones, None, vpc))
    return constraints
