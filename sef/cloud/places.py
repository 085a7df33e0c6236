"""Look up where a resource is bound to be, and the limits of instance types.

Most of these answers never change, so a process asks once for each: the zone of a volume, the
limits of a type, the zones in which a type is offered. AWS can refuse each look-up for lack of a
right; the caller then goes on without the answer.

Sources:
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html,
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypeOfferings.html,
https://docs.aws.amazon.com/vpc/latest/userguide/WorkWithEIPs.html (network border groups) and
https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html
(a target in a zone that is not enabled for the load balancer gets no traffic).
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sef.cloud.clients import Clients
from sef.cloud.errors import CloudError, Remedy, translated

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client
    from mypy_boto3_ec2.type_defs import InstanceTypeInfoTypeDef

T = TypeVar("T")

LOAD_BALANCERS = 20
"""Maximum number of load balancers of one DescribeLoadBalancers call, set by AWS."""


@dataclass(frozen=True, slots=True)
class TypeLimits:
    """Limits and features of an instance type. A number that EC2 did not return is None.

    Attributes:
        interfaces: network interfaces on the first network card.
        addresses: private IPv4 addresses on each interface, the primary one included.
        volumes: EBS volumes, the root volume included.
        shares_attachments: interfaces beyond the first, and local disks, count as volumes.
        local_disks: NVMe disks of the host.
        markets: `spot` and `on-demand`, as far as the type has them; empty: unknown.
    """

    interfaces: int | None = None
    addresses: int | None = None
    volumes: int | None = None
    shares_attachments: bool = False
    local_disks: int = 0
    markets: frozenset[str] = frozenset()
    architectures: frozenset[str] = frozenset()
    virtualizations: frozenset[str] = frozenset()
    root_devices: frozenset[str] = frozenset()
    boot_modes: frozenset[str] = frozenset()
    requires_ena: bool = False
    has_ipv6: bool = True
    has_enclaves: bool = True
    is_ebs_optimizable: bool = True


class PlaceLookups:
    """Look-ups in EC2 and Elastic Load Balancing.

    Raises:
        CloudError: AWS refused a call or did not answer.
    """

    def __init__(self, clients: Callable[[], Clients]) -> None:
        self._clients = clients

    def zones_of_volumes(self, volume_ids: Collection[str]) -> dict[str, str]:
        """Return the zone of each volume that exists."""

        def ask(missing: list[str]) -> dict[str, str]:
            # A filter does not fail for an unknown id.
            answer = self._ec2.describe_volumes(Filters=[{"Name": "volume-id", "Values": missing}])
            return {one["VolumeId"]: one["AvailabilityZone"] for one in answer["Volumes"]}

        return self._constants("zone of volume", volume_ids, ask)

    def zones_of_interfaces(self, interface_ids: Collection[str]) -> dict[str, str]:
        """Return the zone of each network interface that exists."""

        def ask(missing: list[str]) -> dict[str, str]:
            answer = self._ec2.describe_network_interfaces(
                Filters=[{"Name": "network-interface-id", "Values": missing}]
            )
            found = answer["NetworkInterfaces"]
            return {one["NetworkInterfaceId"]: one["AvailabilityZone"] for one in found}

        return self._constants("zone of interface", interface_ids, ask)

    def zones_of_address(self, allocation_id: str) -> frozenset[str] | None:
        """Return the zones in which an Elastic IP can be associated; None: not known.

        They are the zones of its network border group.
        """

        def ask(missing: list[str]) -> dict[str, str]:
            answer = self._ec2.describe_addresses(AllocationIds=missing)
            return {
                one["AllocationId"]: one["NetworkBorderGroup"]
                for one in answer["Addresses"]
                if one.get("NetworkBorderGroup")
            }

        group = self._constants("border group", [allocation_id], ask).get(allocation_id)
        if group is None:
            return None
        groups = self.border_groups()
        zones = frozenset(zone for zone, of_zone in groups.items() if of_zone == group)
        return zones or None

    @translated()
    def places_of_groups(
        self, arns: Collection[str]
    ) -> dict[str, tuple[str | None, frozenset[str] | None]]:
        """Return the VPC of each target group, and the zones of its load balancers.

        The zones are None if the group has no load balancer, or if AWS refuses to show it.
        """
        groups = self._clients().elbv2.describe_target_groups(TargetGroupArns=sorted(arns))
        found = {one["TargetGroupArn"]: one for one in groups["TargetGroups"]}
        balancers = {arn for one in found.values() for arn in one.get("LoadBalancerArns", [])}
        zones = self._zones_of_balancers(sorted(balancers))
        return {
            arn: (
                one.get("VpcId"),
                frozenset.intersection(*(zones[b] for b in own)) if own else None,
            )
            for arn, one in found.items()
            for own in [[b for b in one.get("LoadBalancerArns", []) if zones.get(b)]]
        }

    def limits(self, instance_types: Collection[str]) -> Mapping[str, TypeLimits]:
        """Return the limits of each type that EC2 knows."""

        def ask(missing: list[str]) -> dict[str, TypeLimits]:
            pages = self._ec2.get_paginator("describe_instance_types").paginate(
                Filters=[{"Name": "instance-type", "Values": missing}]
            )
            return {one["InstanceType"]: _limits(one) for p in pages for one in p["InstanceTypes"]}

        return self._constants("limits of type", instance_types, ask)

    def offered_in(self, instance_types: Collection[str]) -> Mapping[str, frozenset[str]]:
        """Return the zones in which each type is offered; a type that EC2 does not know: none."""

        def ask(missing: list[str]) -> dict[str, frozenset[str]]:
            pages = self._ec2.get_paginator("describe_instance_type_offerings").paginate(
                LocationType="availability-zone",
                Filters=[{"Name": "instance-type", "Values": missing}],
            )
            offered: dict[str, set[str]] = {kind: set() for kind in missing}
            for page in pages:
                for one in page["InstanceTypeOfferings"]:
                    offered[one["InstanceType"]].add(one["Location"])
            return {kind: frozenset(zones) for kind, zones in offered.items()}

        return self._constants("offers of type", instance_types, ask)

    def border_groups(self) -> dict[str, str]:
        """Return the network border group of each zone that EC2 shows."""

        def ask(_: list[str]) -> dict[str, dict[str, str]]:
            answer = self._ec2.describe_availability_zones()
            return {
                "all": {
                    zone["ZoneName"]: zone["NetworkBorderGroup"]
                    for zone in answer["AvailabilityZones"]
                    if zone.get("NetworkBorderGroup")
                }
            }

        return self._constants("border groups of zones", ["all"], ask)["all"]

    @property
    def _ec2(self) -> "EC2Client":
        return self._clients().ec2

    def _zones_of_balancers(self, arns: list[str]) -> dict[str, frozenset[str]]:
        zones: dict[str, frozenset[str]] = {}
        for first in range(0, len(arns), LOAD_BALANCERS):
            try:
                with translated():
                    answer = self._clients().elbv2.describe_load_balancers(
                        LoadBalancerArns=arns[first : first + LOAD_BALANCERS]
                    )
            except CloudError as error:
                if error.remedy is Remedy.WAIT:
                    raise
                continue  # refused: the VPC alone decides
            for one in answer["LoadBalancers"]:
                enabled = one.get("AvailabilityZones", [])
                zones[one["LoadBalancerArn"]] = frozenset(z["ZoneName"] for z in enabled)
        return zones

    def _constants(
        self, subject: str, names: Iterable[str], ask: Callable[[list[str]], dict[str, T]]
    ) -> dict[str, T]:
        """Return the known answers by name; ask AWS for the missing ones, and keep its answers."""
        known = self._clients().constants
        wanted = sorted(set(names))
        missing = [name for name in wanted if (subject, name) not in known]
        if missing:
            with translated():
                answers = ask(missing)
            known.update({(subject, name): answer for name, answer in answers.items()})
        return {name: known[subject, name] for name in wanted if (subject, name) in known}


def _limits(answer: "InstanceTypeInfoTypeDef") -> TypeLimits:
    network: Any = answer.get("NetworkInfo", {})
    disks: Any = answer.get("EbsInfo", {})
    local: Any = answer.get("InstanceStorageInfo", {})
    cards = [c for c in network.get("NetworkCards", []) if c.get("NetworkCardIndex") == 0]
    # SEF attaches an interface to the first card.
    first = cards[0] if cards else network
    return TypeLimits(
        first.get("MaximumNetworkInterfaces"),
        network.get("Ipv4AddressesPerInterface"),
        disks.get("MaximumEbsAttachments"),
        disks.get("AttachmentLimitType") == "shared",
        sum(int(disk.get("Count", 0)) for disk in local.get("Disks", [])),
        frozenset(answer.get("SupportedUsageClasses", [])),
        frozenset(answer.get("ProcessorInfo", {}).get("SupportedArchitectures", [])),
        frozenset(answer.get("SupportedVirtualizationTypes", [])),
        frozenset(answer.get("SupportedRootDeviceTypes", [])),
        frozenset(answer.get("SupportedBootModes", [])),
        network.get("EnaSupport") == "required",
        bool(network.get("Ipv6Supported", True)),
        answer.get("NitroEnclavesSupport", "supported") == "supported",
        disks.get("EbsOptimizedSupport", "supported") != "unsupported",
    )
