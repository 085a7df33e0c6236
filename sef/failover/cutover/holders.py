"""Find the instances that hold the cutover targets of an agent now."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sef.cloud.attachments import Impossible
from sef.cloud.errors import CloudError, Remedy
from sef.context import Context
from sef.failover.cutover.targets import Targets
from sef.terms import StepKind


@dataclass(frozen=True, slots=True)
class Holders:
    """The instances that hold each target, as AWS has just shown them.

    Attributes:
        by_target: the holders by the name of the target (`carriers.holder_name`). Empty: no
            instance has it. None: not known, because AWS does not know the target or refuses to
            show it.
        shown: the state of each instance that EC2 shows, of those that were asked for.
    """

    by_target: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)

    def held_by(self, instance_id: str) -> list[str]:
        """Return the names of the targets that are with an instance."""
        return sorted(n for n, ids in self.by_target.items() if ids and instance_id in ids)

    def unknown(self) -> list[str]:
        """Return the names of the targets whose holders are not known."""
        return sorted(name for name, ids in self.by_target.items() if ids is None)


def holders_of(ctx: Context, targets: Targets | None, instance_ids: Collection[str]) -> Holders:
    """Ask AWS which of the instances hold each target of an agent.

    An instance that EC2 no longer shows holds a record by no address, and can still be registered
    in a target group.

    Args:
        instance_ids: the instances in question, such as the former primaries of the agent.

    Raises:
        CloudError: AWS throttles the calls, or does not return a usable answer.
    """
    if not targets or not instance_ids:
        return Holders()
    asked = set(instance_ids)
    shown = ctx.attachments.shown(asked)
    addresses = {instance_id: one.addresses for instance_id, one in shown.items()}
    by_target: dict[str, frozenset[str] | None] = {}
    for name, look_up in _look_ups(ctx, targets, addresses):
        try:
            by_target[name] = frozenset(look_up() & asked)
        except Impossible:
            by_target[name] = None
        except CloudError as error:
            if error.remedy is Remedy.WAIT:
                raise
            by_target[name] = None
    return Holders(by_target, {instance_id: one.state for instance_id, one in shown.items()})


def holders_of_target(
    ctx: Context, kind: StepKind, target: Any, near: str | None = None
) -> set[str]:
    """Return the instances that hold the target of a step, whichever they are.

    A target group has no single holder: nobody loses it when an instance is registered. Of a record
    with several values, none is the holder: each instance has its own value.

    Args:
        near: an instance in whose VPC a private address is meant, since another VPC may have the
            same address. None: any VPC.

    Raises:
        Impossible: the record has an alias or a routing policy.
        CloudError: AWS refuses a call or does not answer.
    """
    attachments = ctx.attachments
    match kind:
        case StepKind.ELASTIC_IP:
            return attachments.holders_of_address(target)
        case StepKind.PRIVATE_IP:
            return attachments.holders_of_private_ip(target, _vpc(ctx, near))
        case StepKind.NETWORK_INTERFACE:
            return attachments.holders_of_interface(target["id"])
        case StepKind.VOLUME:
            return attachments.holders_of_volume(target["id"])
        case StepKind.ROUTE:
            table, destination = target["route_table_id"], target["destination_cidr"]
            return ctx.routes.holders_of_route(table, destination)
        case StepKind.DNS:
            values = ctx.traffic.addresses_of_record(
                target["zone_id"], target["name"], target["type"]
            )
            if len(values) != 1:
                return set()
            return attachments.instances_with_address(values, _vpc(ctx, near))
        case _:
            return set()


def _vpc(ctx: Context, near: str | None) -> str | None:
    return None if near is None else ctx.attachments.vpc_of(near)


def _look_ups(
    ctx: Context, targets: Targets, addresses: Mapping[str, frozenset[str]]
) -> Iterator[tuple[str, Callable[[], set[str]]]]:
    """Yield the name of each target, and a call that returns its holders."""
    attachments, traffic = ctx.attachments, ctx.traffic
    if "elastic_ip" in targets:
        address = targets["elastic_ip"]
        yield f"elastic-ip {address}", partial(attachments.holders_of_address, address)
    if "private_ip" in targets:
        address = targets["private_ip"]
        yield f"private-ip {address}", partial(attachments.holders_of_private_ip, address)
    if "network_interface" in targets:
        interface = targets["network_interface"]["id"]
        yield f"network-interface {interface}", partial(attachments.holders_of_interface, interface)
    for volume in targets.get("volumes", []):
        yield f"volume {volume['id']}", partial(attachments.holders_of_volume, volume["id"])
    for group in targets.get("target_groups", []):
        yield f"target-group {group['arn']}", partial(traffic.holders_of_group, group["arn"])
    for route in targets.get("routes", []):
        table, destination = route["route_table_id"], route["destination_cidr"]
        yield (
            f"route {table} {destination}",
            partial(ctx.routes.holders_of_route, table, destination),
        )
    if "dns" in targets:
        dns = targets["dns"]
        yield f"dns {dns['name']}", partial(_holders_of_record, ctx, dns, addresses)


def _holders_of_record(
    ctx: Context, dns: Mapping[str, Any], addresses: Mapping[str, frozenset[str]]
) -> set[str]:
    values = ctx.traffic.addresses_of_record(dns["zone_id"], dns["name"], dns["type"])
    return {instance_id for instance_id, own in addresses.items() if own & values}
