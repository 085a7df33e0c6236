"""Look up the facts that decide in which pools the standbys of an agent can be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sef.cloud.errors import CloudError
from sef.cloud.likeness import LaunchConfiguration
from sef.cloud.places import TypeLimits
from sef.context import Context
from sef.failover.cutover.place import Constraint
from sef.failover.cutover.place_constraints import constraints_of, route_name
from sef.failover.cutover.targets import Targets
from sef.failover.instances.known_places import KnownPlace
from sef.terms import Pool

T = TypeVar("T")

LIMITED = ("network_interface", "private_ip", "volumes")
"""Targets of which an instance type can have only so many."""


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """Facts about targets and pools; what AWS did not return is left out.

    Attributes:
        limits: limits by instance type.
        offered: zones by instance type.
    """

    constraints: Sequence[Constraint] = ()
    limits: Mapping[str, TypeLimits] = field(default_factory=dict)
    offered: Mapping[str, frozenset[str]] = field(default_factory=dict)


def look_at_places(
    ctx: Context,
    targets: Targets | None,
    source: LaunchConfiguration,
    pools: Sequence[Pool],
    known: KnownPlace,
    only_missing: bool,
) -> PlaceFacts:
    """Ask AWS for the facts. Errors of AWS leave them out: a standby is needed all the same.

    Args:
        only_missing: do not ask about targets whose constraint is known.
    """
    constraints = constraints_of(ctx, targets, source, known.constraints, only_missing=only_missing)
    types = {pool.instance_type for pool in pools}
    has_limits = any(name in (targets or {}) for name in LIMITED)
    asked = types if has_limits or types != {source.instance_type} else set()
    limits = _unless_refused(lambda: ctx.places.limits(asked)) if asked else {}
    others = {pool for pool in pools if pool != source.primary_pool}
    offered = _unless_refused(
        lambda: ctx.places.offered_in({pool.instance_type for pool in others})
    )
    return PlaceFacts(constraints, limits, offered)


def stored_constraints(targets: Targets | None, known: KnownPlace) -> Sequence[Constraint]:
    """Return the stored constraints of the present targets."""
    names = set(target_names(targets))
    return [constraint for name, constraint in known.constraints.items() if name in names]


def target_names(targets: Targets | None) -> Sequence[str]:
    """Return the names that the constraints of these targets have."""
    targets = targets or {}
    single = [f"{name} {targets[name]}" for name in ("elastic_ip", "private_ip") if name in targets]
    interface = targets.get("network_interface")
    return [
        *single,
        *([f"network_interface {interface['id']}"] if interface else []),
        *(route_name(route) for route in targets.get("routes", [])),
        *(f"volumes {volume['id']}" for volume in targets.get("volumes", [])),
        *(f"target_groups {group['arn']}" for group in targets.get("target_groups", [])),
    ]


def wants_public_address(targets: Targets | None) -> bool:
    """Return True if a record follows the public address of the primary."""
    return bool(targets) and (targets or {}).get("dns", {}).get("address") == "public"


def _unless_refused(ask: Callable[[], Mapping[str, T]]) -> Mapping[str, T]:
    try:
        return ask()
    except CloudError:
        return {}
