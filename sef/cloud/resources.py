"""Read what EC2 knows about the targets of an agent and about the instances that they move between.

A check that SEF makes before a switch needs it: what EC2 will refuse for good can be seen before.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sef.cloud.errors import translated
from sef.cloud.holders import HolderLookups, attached_to
from sef.devices import same_device


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """The place of an instance and what is attached to it.

    Attributes:
        devices: volume by device, each device in its canonical form.
        interfaces: network interface by device index.
        addresses: its private and public address.
    """

    id: str
    zone: str
    subnet_id: str | None
    vpc_id: str | None
    root_volume: str | None = None
    is_root_on_instance_store: bool = False
    devices: Mapping[str, str] = field(default_factory=dict)
    interfaces: Mapping[int, str] = field(default_factory=dict)
    addresses: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AddressFacts:
    """An Elastic IP.

    Attributes:
        instance_id: the instance that it is associated with, if there is one.
        interface_id: the network interface that it is associated with, if there is one.
        border_group: the zones in which it can be used; None: not shown.
        service: the service of AWS that manages it; None for an address of the account's own, also
            for one that the owner has brought.
    """

    instance_id: str | None = None
    interface_id: str | None = None
    border_group: str | None = None
    service: str | None = None


@dataclass(frozen=True, slots=True)
class InterfaceFacts:
    """A network interface.

    Attributes:
        kind: EC2's type, such as `interface`, `efa` or `nat_gateway`.
        is_of_service: a service of AWS has made it and manages it.
        device_index: at the instance that it is attached to; None: not attached.
        address: its primary private address.
        addresses: all its private addresses.
        allocations: the Elastic IPs on it.
    """

    id: str
    zone: str
    vpc_id: str | None = None
    kind: str = "interface"
    is_of_service: bool = False
    holders: frozenset[str] = frozenset()
    device_index: int | None = None
    address: str | None = None
    addresses: frozenset[str] = frozenset()
    allocations: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """An EBS volume.

    Attributes:
        state: EC2's state, such as `in-use` or `error`.
    """

    zone: str
    state: str = "in-use"
    is_multi_attach: bool = False
    holders: frozenset[str] = frozenset()


class Resources(HolderLookups):
    """Descriptions of resources in EC2.

    Raises:
        CloudError: EC2 refused a call or did not answer.
    """

    @translated()
    def instance_facts(self, instance_ids: Collection[str]) -> dict[str, InstanceFacts]:
        """Return those of the instances that EC2 shows with a place, by id."""
        facts = (_instance_facts(i) for i in self._instances(sorted(instance_ids)))
        return {one.id: one for one in facts if one.zone}

    @translated()
    def address_facts(self, allocation_id: str) -> AddressFacts:
        """Return what EC2 knows about an Elastic IP.

        `ServiceManaged` is newer than some clients; an interface without an instance shows the
        address of a NAT gateway or load balancer too
        (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Address.html).
        """
        address: Any = self._ec2.describe_addresses(AllocationIds=[allocation_id])["Addresses"][0]
        return AddressFacts(
            address.get("InstanceId") or None,
            address.get("NetworkInterfaceId") or None,
            address.get("NetworkBorderGroup"),
            address.get("ServiceManaged"),
        )

    @translated()
    def interface_facts(self, interface_id: str) -> InterfaceFacts:
        """Return what EC2 knows about a network interface."""
        return _interface_facts(self._interface(interface_id))

    @translated()
    def interface_with_address(self, address: str, vpc_id: str) -> InterfaceFacts | None:
        """Return the network interface of a VPC that has a private address, if there is one."""
        found = self._ec2.describe_network_interfaces(
            Filters=[
                {"Name": "vpc-id", "Values": [vpc_id]},
                {"Name": "addresses.private-ip-address", "Values": [address]},
            ]
        )["NetworkInterfaces"]
        return _interface_facts(found[0]) if found else None

    @translated()
    def volume_facts(self, volume_id: str) -> VolumeFacts:
        """Return what EC2 knows about a volume."""
        volume = self._volume(volume_id)
        return VolumeFacts(
            volume["AvailabilityZone"],
            volume.get("State", "in-use"),
            bool(volume.get("MultiAttachEnabled")),
            frozenset(a["InstanceId"] for a in volume.get("Attachments", [])),
        )

    @translated()
    def subnet_blocks(self, subnet_ids: Collection[str]) -> dict[str, str]:
        """Return the IPv4 block of each subnet."""
        if not subnet_ids:
            return {}
        answer = self._ec2.describe_subnets(SubnetIds=sorted(subnet_ids))
        return {subnet["SubnetId"]: subnet["CidrBlock"] for subnet in answer["Subnets"]}


def _instance_facts(instance: Any) -> InstanceFacts:
    mappings = [m for m in instance.get("BlockDeviceMappings", []) if m.get("Ebs")]
    devices = {same_device(m["DeviceName"]): m["Ebs"]["VolumeId"] for m in mappings}
    root = instance.get("RootDeviceName")
    return InstanceFacts(
        instance["InstanceId"],
        instance.get("Placement", {}).get("AvailabilityZone", ""),
        instance.get("SubnetId"),
        instance.get("VpcId"),
        devices.get(same_device(root)) if root else None,
        instance.get("RootDeviceType") == "instance-store",
        devices,
        {
            i["Attachment"]["DeviceIndex"]: i["NetworkInterfaceId"]
            for i in instance.get("NetworkInterfaces", [])
            if i.get("Attachment")
        },
        frozenset(
            instance[name] for name in ("PrivateIpAddress", "PublicIpAddress") if instance.get(name)
        ),
    )


def _interface_facts(interface: Any) -> InterfaceFacts:
    attachment = interface.get("Attachment") or {}
    addresses = interface.get("PrivateIpAddresses", [])
    associations = [one.get("Association") or {} for one in addresses]
    return InterfaceFacts(
        interface["NetworkInterfaceId"],
        interface["AvailabilityZone"],
        interface.get("VpcId"),
        interface.get("InterfaceType") or "interface",
        bool(interface.get("RequesterManaged")),
        frozenset(attached_to([interface])),
        attachment.get("DeviceIndex"),
        interface.get("PrivateIpAddress"),
        frozenset(one["PrivateIpAddress"] for one in addresses),
        frozenset(one["AllocationId"] for one in associations if one.get("AllocationId")),
    )
