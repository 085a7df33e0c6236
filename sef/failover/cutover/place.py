"""Decide where an instance must be so that the cutover targets can follow it.

A volume and a network interface stay in their zone, a private address in its subnet, an Elastic IP
in its network border group, and a target group serves instances of its VPC, in the zones of its
load balancer. Sources: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AttachVolume.html,
.../API_AttachNetworkInterface.html, .../API_AssignPrivateIpAddresses.html,
https://docs.aws.amazon.com/vpc/latest/userguide/WorkWithEIPs.html and
https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_RegisterTargets.html
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sef.failover.cutover.targets import Targets
from sef.terms import LaunchAway

if TYPE_CHECKING:
    from sef.cloud.likeness import Network, Subnet
    from sef.cloud.places import TypeLimits


@dataclass(frozen=True, slots=True)
class Constraint:
    """The places in which one target can follow. None: it does not restrict them.

    Attributes:
        target: the field and the id of the target, such as `volumes vol-1`.
        place: the places in words, such as `us-east-1a`.
    """

    target: str
    place: str
    zones: frozenset[str] | None = None
    subnet: str | None = None
    vpc: str | None = None

    @property
    def is_restricted(self) -> bool:
        return self.zones is not None or self.subnet is not None or self.vpc is not None

    def allows(self, zone: str, subnet: str | None, vpc: str | None) -> bool:
        """Return True if the target can follow an instance there. An unknown VPC is allowed."""
        return (
            (self.zones is None or zone in self.zones)
            and (self.subnet is None or subnet == self.subnet)
            and (self.vpc is None or vpc is None or vpc == self.vpc)
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"zones": None if self.zones is None else sorted(self.zones)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Constraint":
        zones = value["zones"]
        zones = None if zones is None else frozenset(zones)
        return cls(value["target"], value["place"], zones, value["subnet"], value["vpc"])


def is_possible(constraints: Sequence[Constraint]) -> bool:
    """Return False if no place at all can have every target."""
    zones = [constraint.zones for constraint in constraints if constraint.zones is not None]
    subnets = {constraint.subnet for constraint in constraints if constraint.subnet is not None}
    vpcs = {constraint.vpc for constraint in constraints if constraint.vpc is not None}
    has_zone = not zones or bool(frozenset.intersection(*zones))
    return has_zone and len(subnets) <= 1 and len(vpcs) <= 1


def subnets_for(
    network: "Network", constraints: Sequence[Constraint], *, public: bool, ipv6: bool
) -> dict[str, str]:
    """Return the subnet to launch in, by zone.

    It is the one that the most targets can follow to, then one like the primary's own, and then the
    one with the most free addresses.

    Args:
        public: prefer a subnet that gives public addresses: the primary has one.
        ipv6: prefer a subnet with IPv6 addresses: the primary has one.
    """
    own = network.subnet(network.own)
    wants_public = own.gives_public if own is not None and not public else public

    def order(subnet: "Subnet") -> tuple[int, bool, bool, bool, bool, int]:
        allowed = sum(one.allows(subnet.zone, subnet.id, network.vpc) for one in constraints)
        is_own = subnet.id == network.own
        return (
            allowed,
            subnet.free != 0,
            is_own,
            not ipv6 or subnet.has_ipv6,
            wants_public is None or subnet.gives_public == wants_public,
            subnet.free or 0,
        )

    return {subnet.zone: subnet.id for subnet in sorted(network.subnets, key=order)}


def left_behind(
    constraints: Sequence[Constraint], zone: str, subnet: str | None, vpc: str | None
) -> list[str]:
    """Return the targets that cannot follow an instance to a place."""
    return [one.target for one in constraints if not one.allows(zone, subnet, vpc)]


def beyond_limits(targets: Targets | None, limits: "TypeLimits | None") -> list[str]:
    """Return the targets for which a type has too few interfaces, addresses or attachments.

    That a device index must be below the number of interfaces could not be verified for all types;
    SEF prefers a type where it is.
    """
    if not targets or limits is None:
        return []
    beyond = []
    interface = targets.get("network_interface")
    index = interface["device_index"] if interface else 0
    if interface and limits.interfaces is not None and limits.interfaces <= index:
        beyond.append(f"network_interface {interface['id']}")
    address = targets.get("private_ip")
    if address and limits.addresses is not None and limits.addresses < 2:
        beyond.append(f"private_ip {address}")
    volumes = targets.get("volumes", [])
    needed = 1 + len(volumes) + (1 if interface and limits.shares_attachments else 0)
    if volumes and limits.volumes is not None and needed > limits.volumes:
        beyond += [f"volumes {volume['id']}" for volume in volumes[limits.volumes - needed :]]
    return beyond


def may_launch_away(
    setting: LaunchAway, constraints: Sequence[Constraint], *, is_emergency: bool
) -> bool:
    """Return True if an instance may be launched where a target cannot follow.

    It is a last resort in any case. If no place can have every target, the fewest are left behind.
    """
    if setting == LaunchAway.ALWAYS or (setting == LaunchAway.EMERGENCY and is_emergency):
        return True
    return not is_possible(constraints)
