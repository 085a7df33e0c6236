"""Describe a new instance that is like another one: its launch parameters, network and image.

`LaunchConfiguration` is plain data that can be stored, so that a standby can still be launched like
a primary that EC2 no longer shows, or shows without its network.

Not copied: the addresses of the primary, its further volumes and network interfaces, a Dedicated
Host, a capacity reservation, CPU options, hibernation, termination protection, and a cluster
placement group outside of the primary's zone. The user data is copied as it is: if it takes an
address or attaches a volume at boot, so does each standby.

Fields: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Instance.html and
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from sef.terms import Pool, parse_pool

METADATA_OPTIONS = (
    "HttpTokens",
    "HttpPutResponseHopLimit",
    "HttpEndpoint",
    "HttpProtocolIpv6",
    "InstanceMetadataTags",
)
"""Options of the instance metadata service that RunInstances takes as DescribeInstances gives them.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceMetadataOptionsRequest.html
"""

OWNED_BY_AMAZON = "amazon"
"""Owner of a public address that EC2 gave to an instance; an Elastic IP belongs to an account."""


_BURSTABLE = re.compile(r"t\d")


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet; a field that EC2 did not return is None.

    Attributes:
        free: number of free IPv4 addresses.
        gives_public: an instance gets a public IPv4 address at its launch.
    """

    id: str
    zone: str
    block: str | None = None
    free: int | None = None
    gives_public: bool | None = None
    has_ipv6: bool = False

    def contains(self, address: str) -> bool:
        return self.block is not None and ip_address(address) in ip_network(self.block)


@dataclass(frozen=True, slots=True)
class Network:
    """The VPC of an instance and its subnets.

    Attributes:
        own: the subnet of the instance.
        subnets: the subnets of the VPC; only `own` if EC2 refuses to list them.
    """

    vpc: str
    own: str | None = None
    subnets: tuple[Subnet, ...] = ()

    def subnet(self, subnet_id: str | None) -> Subnet | None:
        return next((subnet for subnet in self.subnets if subnet.id == subnet_id), None)

    def subnet_of(self, address: str) -> Subnet | None:
        """Return the subnet whose block contains an address; the blocks of a VPC do not overlap."""
        return next((subnet for subnet in self.subnets if subnet.contains(address)), None)


@dataclass(frozen=True, slots=True)
class Image:
    """The demands of an image, and of the copied instance, on the instance type. None: unknown."""

    architecture: str | None = None
    virtualization: str | None = None
    root_device: str | None = None
    boot_mode: str | None = None
    has_ena: bool | None = None
    needs_ipv6: bool = False
    needs_enclaves: bool = False


@dataclass(frozen=True, slots=True)
class LaunchConfiguration:
    """A template for new instances: parameters of RunInstances without pool and market.

    Attributes:
        instance_type: the type of the instance or of the template.
        subnets: subnet id by zone; empty for the default VPC, where the zone is enough.
        primary_pool: the pool in which the primary runs, according to EC2.
        network: None if the VPC is unknown.
        wants_public_address: the instance has a public address that is no Elastic IP.
        after_launch: attributes that only ModifyInstanceAttribute can set, after the launch.
        addresses: subnet id by private address of the instance.
        gaps: a sentence about each thing that EC2 refused to show.
    """

    described_as: str
    parameters: Mapping[str, Any]
    instance_type: str | None
    subnets: Mapping[str, str] = field(default_factory=dict)
    primary_pool: Pool | None = None
    network: Network | None = None
    image: Image = Image()
    wants_public_address: bool = False
    after_launch: Mapping[str, Any] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"primary_pool": str(self.primary_pool or "")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "LaunchConfiguration":
        """Return a stored configuration; a later version of SEF may have added fields."""
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        network = known.get("network")
        if network is not None:
            subnets = tuple(Subnet(**subnet) for subnet in network["subnets"])
            known["network"] = Network(network["vpc"], network["own"], subnets)
        known["image"] = Image(**known.get("image", {}))
        known["gaps"] = tuple(known.get("gaps", ()))
        known["primary_pool"] = parse_pool(known.get("primary_pool"))
        return cls(**known)


def like(
    instance: Mapping[str, Any],
    network: Network | None,
    user_data: str | None = None,
    credits: str | None = None,
    gaps: Sequence[str] = (),
) -> LaunchConfiguration:
    """Return the configuration of an instance, as DescribeInstances describes it.

    Args:
        credits: the credit option of a burstable instance.

    Raises:
        LookupError: the answer lacks a field that each instance has.
    """
    tags = [
        {"Key": tag["Key"], "Value": tag["Value"]}
        for tag in instance.get("Tags", [])
        if not tag["Key"].startswith(("aws:", "sef:"))
    ]
    profile = instance.get("IamInstanceProfile", {}).get("Arn")
    optional = {
        "KeyName": instance.get("KeyName"),
        "SecurityGroupIds": [g["GroupId"] for g in instance.get("SecurityGroups", [])],
        "IamInstanceProfile": {"Arn": profile} if profile else None,
        "UserData": user_data,
        "EbsOptimized": instance.get("EbsOptimized") or None,
        "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}] if tags else None,
        "CreditSpecification": {"CpuCredits": credits} if credits else None,
        **_options(instance),
    }
    first = _first_interface(instance)
    owner = first.get("Association", {}).get("IpOwnerId")
    has_enclaves = bool(instance.get("EnclaveOptions", {}).get("Enabled"))
    return LaunchConfiguration(
        f"instance {instance['InstanceId']}",
        {"ImageId": instance["ImageId"]} | {k: v for k, v in optional.items() if v},
        instance["InstanceType"],
        zones_of(network) if network else {},
        Pool(instance["InstanceType"], instance["Placement"]["AvailabilityZone"]),
        network,
        Image(
            instance.get("Architecture"),
            instance.get("VirtualizationType"),
            instance.get("RootDeviceType"),
            instance.get("BootMode"),
            instance.get("EnaSupport"),
            needs_ipv6=bool(first.get("Ipv6Addresses")),
            needs_enclaves=has_enclaves,
        ),
        wants_public_address=owner == OWNED_BY_AMAZON,
        # RunInstances has no parameter for it. A NAT instance or a router does not work without.
        after_launch=(
            {"SourceDestCheck": False} if instance.get("SourceDestCheck") is False else {}
        ),
        addresses={
            address["PrivateIpAddress"]: interface["SubnetId"]
            for interface in instance.get("NetworkInterfaces", [])
            for address in interface.get("PrivateIpAddresses", [])
            if "SubnetId" in interface
        },
        gaps=(*gaps, *_uncopied(instance)),
    )


def subnet_of(answer: Mapping[str, Any]) -> Subnet:
    """Return a subnet that DescribeSubnets describes."""
    return Subnet(
        answer["SubnetId"],
        answer["AvailabilityZone"],
        answer.get("CidrBlock") or None,
        answer["AvailableIpAddressCount"],
        answer.get("MapPublicIpOnLaunch"),
        bool(answer.get("Ipv6CidrBlockAssociationSet")),
    )


def zones_of(network: Network) -> dict[str, str]:
    """Return one subnet id per zone: the subnet with the most free addresses."""
    by_room = sorted(network.subnets, key=lambda subnet: subnet.free or 0)
    return {subnet.zone: subnet.id for subnet in by_room}


def is_burstable(instance_type: str) -> bool:
    """Return True for a type with CPU credits: t2, t3, t3a, t4g and later ones."""
    return _BURSTABLE.match(instance_type) is not None


def _options(instance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of options that are not at their default."""
    metadata = instance.get("MetadataOptions", {})
    names = instance.get("PrivateDnsNameOptions", {})
    placement = instance.get("Placement", {})
    is_named_by_id = names.get("HostnameType") == "resource-name"
    is_named = is_named_by_id or names.get("EnableResourceNameDnsARecord")
    kept_names = ("HostnameType", "EnableResourceNameDnsARecord")
    licenses = [
        {"LicenseConfigurationArn": one["LicenseConfigurationArn"]}
        for one in instance.get("Licenses", [])
    ]
    recovery = instance.get("MaintenanceOptions", {}).get("AutoRecovery")
    where = {
        "GroupName": placement.get("GroupName"),
        "Tenancy": "dedicated" if placement.get("Tenancy") == "dedicated" else None,
    }
    return {
        "MetadataOptions": {name: metadata[name] for name in METADATA_OPTIONS if name in metadata},
        "Monitoring": (
            {"Enabled": True}
            if instance.get("Monitoring", {}).get("State") in ("enabled", "pending")
            else None
        ),
        "PrivateDnsNameOptions": (
            {name: names[name] for name in kept_names if name in names} if is_named else None
        ),
        "LicenseSpecifications": licenses,
        "EnclaveOptions": (
            {"Enabled": True} if instance.get("EnclaveOptions", {}).get("Enabled") else None
        ),
        "MaintenanceOptions": {"AutoRecovery": recovery} if recovery == "disabled" else None,
        "Placement": {name: value for name, value in where.items() if value},
    }


def _uncopied(instance: Mapping[str, Any]) -> list[str]:
    if instance.get("Placement", {}).get("Tenancy") != "host":
        return []
    # Spot has no Dedicated Hosts: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/
    # dedicated-hosts-overview.html
    return ["it runs on a Dedicated Host, and its standbys do not"]


def _first_interface(instance: Mapping[str, Any]) -> Mapping[str, Any]:
    for interface in instance.get("NetworkInterfaces", []):
        if interface.get("Attachment", {}).get("DeviceIndex") == 0:
            found: Mapping[str, Any] = interface
            return found
    return {}
