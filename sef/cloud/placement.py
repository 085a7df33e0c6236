"""Look up the place of an instance, and how an instance has an address, interface or volume."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from sef.cloud.changes import Impossible, NotReady
from sef.cloud.ec2 import GONE
from sef.cloud.errors import translated
from sef.cloud.holders import HolderLookups


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of an instance; `addresses` includes the first one."""

    id: str
    device_index: int
    first_address: str
    addresses: frozenset[str]


@dataclass(frozen=True, slots=True)
class NetworkPlacement:
    """The zone and the subnet of an instance, its first network interface, and what it has.

    Attributes:
        devices: id of the volume at each device name.
    """

    instance_id: str
    zone: str
    subnet_id: str
    interface_id: str
    private_ip: str
    public_ip: str | None
    instance_type: str
    interfaces: tuple[Interface, ...]
    devices: Mapping[str, str]

    def has_interface(self, interface_id: str | None) -> bool:
        return any(one.id == interface_id for one in self.interfaces)

    def at_index(self, device_index: int | None) -> Interface | None:
        return next((one for one in self.interfaces if one.device_index == device_index), None)

    def with_address(self, address: str | None) -> Interface | None:
        return next((one for one in self.interfaces if address in one.addresses), None)

    @property
    def first(self) -> Interface:
        return next(one for one in self.interfaces if one.id == self.interface_id)

    @property
    def fingerprint(self) -> str:
        """The type, the devices and the interfaces, which decide if the instance has room."""
        indices = sorted(one.device_index for one in self.interfaces)
        addresses = sorted(a for one in self.interfaces for a in one.addresses)
        return f"{self.instance_type} {sorted(self.devices)} {indices} {addresses}"


@dataclass(frozen=True, slots=True)
class Binding:
    """The interface, address or device at which an instance has a target.

    Attributes:
        is_first: the address is the first one of its interface.
    """

    instance_id: str
    interface_id: str | None = None
    device_index: int | None = None
    private_ip: str | None = None
    is_first: bool = True
    device: str | None = None

    def to_column(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "instance_id"}

    @classmethod
    def read(cls, instance_id: str, column: Mapping[str, Any]) -> Self:
        return cls(instance_id=instance_id, **column)


class Placements(HolderLookups):
    """Look-ups of places and bindings.

    Raises:
        CloudError: EC2 refused a call or did not answer.
        NotReady: EC2 does not show the instance, or it has no network interface yet.
    """

    @translated()
    def running(self, instance_id: str) -> None:
        """Raise NotReady until EC2 shows the instance running, and Impossible once it is gone."""
        state = self._instance(instance_id)["State"]["Name"]
        if state in GONE:
            raise Impossible(f"{instance_id} is {state}")
        if state != "running":
            raise NotReady(f"{instance_id} is {state}")

    @translated()
    def place(self, instance_id: str) -> NetworkPlacement:
        """Return the network placement of an instance."""
        instance = self._instance(instance_id)
        interfaces = instance.get("NetworkInterfaces", [])
        first = [i for i in interfaces if i["Attachment"]["DeviceIndex"] == 0]
        if not first:
            raise NotReady(f"{instance_id} has no network interface")
        return NetworkPlacement(
            instance_id,
            instance["Placement"]["AvailabilityZone"],
            instance["SubnetId"],
            first[0]["NetworkInterfaceId"],
            instance["PrivateIpAddress"],
            instance.get("PublicIpAddress"),
            instance.get("InstanceType", ""),
            tuple(_interface(interface) for interface in interfaces),
            {
                mapping["DeviceName"]: mapping.get("Ebs", {}).get("VolumeId", "")
                for mapping in instance.get("BlockDeviceMappings", [])
            },
        )

    @translated()
    def binding_of_address(self, allocation_id: str) -> Binding | None:
        """Return how an Elastic IP is bound; None: it is at no instance."""
        address = self._ec2.describe_addresses(AllocationIds=[allocation_id])["Addresses"][0]
        interface_id = address.get("NetworkInterfaceId")
        if not interface_id:
            return None
        interface = self._interface(interface_id)
        attachment = interface.get("Attachment") or {}
        if not attachment.get("InstanceId"):
            return None
        private_ip = address.get("PrivateIpAddress") or interface["PrivateIpAddress"]
        return Binding(
            attachment["InstanceId"],
            interface_id,
            attachment.get("DeviceIndex"),
            private_ip,
            is_first=private_ip == interface["PrivateIpAddress"],
        )

    @translated()
    def binding_of_private_ip(self, address: str, instances: Collection[str]) -> Binding | None:
        """Return how one of the instances has a private address.

        Each VPC can have the address.
        """
        found = self._ec2.describe_network_interfaces(
            Filters=[{"Name": "addresses.private-ip-address", "Values": [address]}]
        )["NetworkInterfaces"]
        for interface in found:
            attachment = interface.get("Attachment") or {}
            if attachment.get("InstanceId") in instances:
                return Binding(
                    attachment["InstanceId"],
                    interface["NetworkInterfaceId"],
                    attachment.get("DeviceIndex"),
                    address,
                    is_first=address == interface["PrivateIpAddress"],
                )
        return None

    @translated()
    def binding_of_interface(self, interface_id: str) -> Binding | None:
        """Return the device index of a network interface; None: it is at no instance."""
        attachment = self._interface(interface_id).get("Attachment") or {}
        if not attachment.get("InstanceId"):
            return None
        return Binding(attachment["InstanceId"], interface_id, attachment.get("DeviceIndex"))

    @translated()
    def binding_of_volume(self, volume_id: str) -> Binding | None:
        """Return the device of a volume; None: it is at no instance, or at several."""
        attachments = self._volume(volume_id).get("Attachments", [])
        if len(attachments) != 1:
            return None
        return Binding(attachments[0]["InstanceId"], device=attachments[0].get("Device"))

    def _instance(self, instance_id: str) -> Any:
        answer = self._ec2.describe_instances(
            Filters=[{"Name": "instance-id", "Values": [instance_id]}]
        )
        instances = [i for reservation in answer["Reservations"] for i in reservation["Instances"]]
        if not instances:
            raise NotReady(f"EC2 does not show {instance_id}")
        return instances[0]


def _interface(interface: Any) -> Interface:
    first = interface.get("PrivateIpAddress", "")
    addresses = [one["PrivateIpAddress"] for one in interface.get("PrivateIpAddresses", [])]
    return Interface(
        interface["NetworkInterfaceId"],
        interface["Attachment"]["DeviceIndex"],
        first,
        frozenset([first, *addresses]),
    )
