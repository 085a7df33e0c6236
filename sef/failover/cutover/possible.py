"""Say beforehand what EC2 will refuse: pure rules about a target and two instances.

Each rule names a refusal for good. What a later moment may cure, such as a mounted volume, is none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from sef.devices import same_device

if TYPE_CHECKING:
    from sef.cloud.resources import AddressFacts, InstanceFacts, InterfaceFacts, VolumeFacts

OWN_KINDS = ("interface", "efa", "efa-only")
"""Types of interfaces that belong to the account, and not to a service of AWS.

Source: `InterfaceType` of
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_NetworkInterface.html.
"""

UNUSABLE = ("deleting", "deleted", "error")
"""States from which a volume is never attached again.

Source: https://docs.aws.amazon.com/ebs/latest/userguide/ebs-describing-volumes.html. A volume whose
key is not accessible stays `available`, and EC2 reports it in an event only
(https://docs.aws.amazon.com/ebs/latest/userguide/ebs-cloud-watch-events.html): it is not seen here.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """An instance that has the targets, or that will have them.

    Attributes:
        role: `the primary` or `the standby`, for messages.
    """

    role: str
    instance: "InstanceFacts"

    @property
    def name(self) -> str:
        return f"{self.role} {self.instance.id}"


def address_problems(
    address: "AddressFacts",
    interface: "InterfaceFacts | None",
    places: Sequence[Place],
    border_groups: Mapping[str, str],
) -> Iterator[str]:
    """Yield the reasons why an Elastic IP cannot follow.

    An address works in the zones of its network border group only
    (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AllocateAddress.html).

    Args:
        interface: the interface that the address is associated with, if it is known.
        border_groups: the network border group of each zone that is known.
    """
    if address.service is not None:
        yield f"it is managed by {address.service} of AWS, which keeps it"
    elif interface is not None and _is_of_service(interface):
        yield (
            f"it is associated with {interface.id}, an interface of type {interface.kind} that a "
            "service of AWS manages; SEF cannot take it from there"
        )
    for place in places:
        group = border_groups.get(place.instance.zone)
        if group is not None and address.border_group not in (None, group):
            yield (
                f"its network border group is {address.border_group}, and {place.name} is in "
                f"{group}: it cannot be associated there"
            )


def interface_problems(
    interface: "InterfaceFacts", device_index: int, places: Sequence[Place]
) -> Iterator[str]:
    """Yield the reasons why a network interface cannot follow.

    The primary interface of an instance cannot be detached
    (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/network-interface-attachments.html). An
    Elastic Fabric Adapter is detached at a stopped instance only
    (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/detach-efa.html).
    """
    if _is_of_service(interface):
        yield f"its type is {interface.kind}, and a service of AWS manages it: it cannot be moved"
    elif interface.kind != "interface":
        yield f"its type is {interface.kind}, which EC2 moves between stopped instances only"
    if interface.device_index == 0:
        holder = ", ".join(sorted(interface.holders))
        yield f"it is the first interface of {holder}, which cannot be detached"
    for place in places:
        used = place.instance.interfaces.get(device_index)
        if used not in (None, interface.id):
            yield (
                f"device index {device_index} of {place.name} has {used}; choose another "
                "device_index"
            )


def volume_problems(
    volume_id: str, volume: "VolumeFacts", device: str, places: Sequence[Place]
) -> Iterator[str]:
    """Yield the reasons why a volume cannot follow.

    The root volume is detached at a stopped instance only
    (https://docs.aws.amazon.com/ebs/latest/userguide/ebs-detaching-volume.html). A volume with
    Multi-Attach is at several instances at once
    (https://docs.aws.amazon.com/ebs/latest/userguide/ebs-volumes-multi.html).
    """
    if volume.state in UNUSABLE:
        yield f"its state is {volume.state}: it cannot be attached again"
    if volume.is_multi_attach or len(volume.holders) > 1:
        yield "it has Multi-Attach, and SEF moves only volumes that one instance has at a time"
    for place in places:
        if place.instance.root_volume == volume_id:
            yield f"it is the root volume of {place.name}, which cannot be detached while it runs"
            return
    for place in places:
        used = place.instance.devices.get(same_device(device))
        if used not in (None, volume_id):
            yield f"{device} of {place.name} has {used}; choose another device"


def private_ip_problems(
    address: str,
    interface: "InterfaceFacts | None",
    places: Sequence[Place],
    blocks: Mapping[str, str],
) -> Iterator[str]:
    """Yield the reasons why a private address cannot follow.

    The first four addresses of a subnet and the last one are reserved
    (https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html).

    Args:
        interface: the interface that has the address now, if there is one.
        blocks: the IPv4 block of each subnet that is known.
    """
    if interface is not None and _is_of_service(interface):
        yield f"{address} is used by {interface.id}, an interface that a service of AWS manages"
    elif interface is not None and interface.address == address:
        holder = ", ".join(sorted(interface.holders)) or "no instance"
        yield (
            f"{address} is the primary address of {interface.id} at {holder}; only a secondary "
            "one can be moved"
        )
    seen: set[str] = set()
    for place in places:
        subnet = place.instance.subnet_id
        if subnet is None or subnet not in blocks or subnet in seen:
            continue
        seen.add(subnet)
        block = IPv4Network(blocks[subnet])
        if IPv4Address(address) not in block:
            yield f"{address} is not in {subnet} ({block}), the subnet of {place.name}"
        elif _is_reserved(IPv4Address(address), block):
            yield f"{address} is reserved by AWS in {subnet} ({block})"


def _is_reserved(address: IPv4Address, block: IPv4Network) -> bool:
    return int(address) - int(block.network_address) < 4 or address == block.broadcast_address


def _is_of_service(interface: "InterfaceFacts") -> bool:
    return interface.is_of_service or interface.kind not in OWN_KINDS
