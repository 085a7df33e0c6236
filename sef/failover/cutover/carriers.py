"""Name the targets, and find those that move with another target.

An Elastic IP on a secondary private address moves with the address, and both move with their
network interface.
"""

from collections.abc import Collection, Mapping
from typing import Any

from sef.cloud.placement import Binding
from sef.terms import StepKind


def holder_name(kind: StepKind, target: Any) -> str | None:
    """Return the name of the target that a step moves; None if the step moves none."""
    match kind:
        case StepKind.ELASTIC_IP | StepKind.PRIVATE_IP:
            return f"{kind} {target}"
        case StepKind.VOLUME | StepKind.NETWORK_INTERFACE:
            return f"{kind} {target['id']}"
        case StepKind.REGISTER | StepKind.HEALTHY | StepKind.DEREGISTER:
            return f"target-group {target['arn']}"
        case StepKind.DNS:
            return f"{kind} {target['name']}"
        case StepKind.ROUTE:
            return f"{kind} {target['route_table_id']} {target['destination_cidr']}"
        case _:
            return None


def carriers(
    kind: StepKind,
    target: Any,
    bindings: Mapping[str, Binding],
    moving: Collection[tuple[StepKind, str]],
) -> frozenset[StepKind]:
    """Return the kinds of the moving targets that carry a target, as it was bound.

    Args:
        moving: kind and id, or address, of the targets that move.
    """
    if kind not in (StepKind.ELASTIC_IP, StepKind.PRIVATE_IP):
        return frozenset()
    binding = bindings.get(f"{kind} {target}")
    if binding is None:
        return frozenset()
    found = {
        (StepKind.NETWORK_INTERFACE, binding.interface_id),
        *({(StepKind.PRIVATE_IP, binding.private_ip)} if kind is StepKind.ELASTIC_IP else ()),
    }
    return frozenset(carrier for carrier, name in found if (carrier, name or "") in moving)
