"""Move addresses, network interfaces and volumes between instances, by compare-and-swap.

1. A method of `Attachments` looks up the present state and plans a change from exactly that state.
2. The caller checks that it may still make the change.
3. The caller makes the change. The calls name the state that was seen, so EC2 refuses them once
   another worker has changed the state. A worker that was suspended after its look-up thus cannot
   undo newer changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from sef.cloud.ec2 import GONE
from sef.cloud.errors import translated
from sef.cloud.holders import OTHER_SERVICE, attached_to
from sef.cloud.resources import Resources

RACED = frozenset(
    {
        "IncorrectInstanceState",
        "IncorrectState",
        "InvalidAssociationID.NotFound",
        "InvalidAttachment.NotFound",
        "InvalidAttachmentID.NotFound",
        "InvalidIPAddress.InUse",
        "InvalidNetworkInterface.InUse",
        "Resource.AlreadyAssociated",
        "VolumeInUse",
    }
)
"""Codes of a change that failed because the state is no longer, or not yet, as the call requires.

The caller looks again. Source: EC2's list of error codes (see `sef.cloud.errors`).
"""


class NotReady(Exception):
    """The change has to wait; the caller looks again later. The message is the reason."""


class Waits(NotReady):
    """The change waits on purpose: what serves now has to go on serving."""


class Impossible(Exception):
    """The change cannot be made in the present state. The message is a sentence for an operator."""


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """A change from the state that was seen towards the wanted one.

    Attributes:
        description: the change as a clause in the past tense, for messages.
        make: makes the change; raises CloudError, with a code in RACED if the state has changed.
        is_all: True if the change reaches the wanted state; False if the caller has to look again.
        holders: the instances that lose the target by the change; None: not looked up.
    """

    description: str
    make: Callable[[], None]
    is_all: bool = True
    holders: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class NetworkPlacement:
    """The zone and the subnet of an instance, and its first network interface."""

    instance_id: str
    zone: str
    subnet_id: str
    interface_id: str
    private_ip: str
    public_ip: str | None


class Attachments(Resources):
    """Elastic IPs, private addresses, network interfaces and volumes.

    Each method that plans a change returns None if the wanted state is reached.

    Raises:
        CloudError: EC2 refused a call or did not answer.
        NotReady: the change has to wait.
        Impossible: the change cannot be made in the present state.
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
        )

    @translated()
    def elastic_ip(self, allocation_id: str, instance_id: str) -> PlannedChange | None:
        """Plan to associate an Elastic IP with the first interface of an instance."""
        place = self.place(instance_id)
        answer = self._ec2.describe_addresses(AllocationIds=[allocation_id])
        address = answer["Addresses"][0]
        if address.get("NetworkInterfaceId") == place.interface_id:
            return None
        return PlannedChange(
            f"{address['PublicIp']} ({allocation_id}) moved to {instance_id}",
            partial(
                self._move_elastic_ip,
                allocation_id,
                old_association=address.get("AssociationId"),
                interface_id=place.interface_id,
            ),
            holders=_holders_of(address),
        )

    @translated()
    def private_ip(self, address: str, instance_id: str) -> PlannedChange | None:
        """Plan to assign a secondary private address to the first interface of an instance."""
        place = self.place(instance_id)
        self._check_subnet(address, place)
        interfaces = self._ec2.describe_network_interfaces(
            Filters=[
                {"Name": "subnet-id", "Values": [place.subnet_id]},
                {"Name": "addresses.private-ip-address", "Values": [address]},
            ]
        )["NetworkInterfaces"]
        holder = interfaces[0] if interfaces else None
        if holder is not None:
            if holder["NetworkInterfaceId"] == place.interface_id:
                return None
            if holder["PrivateIpAddress"] == address:
                raise Impossible(
                    f"{address} is the primary address of {holder['NetworkInterfaceId']}; only a "
                    "secondary one can be moved"
                )
        return PlannedChange(
            f"{address} moved to {instance_id}",
            partial(
                self._move_private_ip,
                address,
                old_interface_id=holder["NetworkInterfaceId"] if holder is not None else None,
                interface_id=place.interface_id,
            ),
            holders=frozenset(attached_to(interfaces)),
        )

    @translated()
    def network_interface(
        self, interface_id: str, device_index: int, instance_id: str
    ) -> PlannedChange | None:
        """Plan to detach an interface from its holder, or to attach it to an instance."""
        place = self.place(instance_id)
        interface = self._interface(interface_id)
        _check_zone(interface_id, interface["AvailabilityZone"], place)
        attachment = interface.get("Attachment") or {}
        if not attachment:
            return PlannedChange(
                f"{interface_id} attached to {instance_id}",
                partial(self._attach_interface, interface_id, device_index, instance_id),
                is_all=False,
                holders=frozenset(),
            )
        holder = attachment.get("InstanceId", OTHER_SERVICE)
        if _is_attached_to(instance_id, interface_id, holder, attachment["Status"]):
            return None
        if attachment.get("DeviceIndex") == 0:
            raise Impossible(f"{interface_id} is the first interface of {holder} and stays there")
        return PlannedChange(
            f"{interface_id} detached from {holder}",
            partial(self._detach_interface, attachment["AttachmentId"]),
            is_all=False,
            holders=frozenset({holder}),
        )

    @translated()
    def volume(self, volume_id: str, device: str, instance_id: str) -> PlannedChange | None:
        """Plan to detach a volume from its holder, or to attach it to an instance."""
        place = self.place(instance_id)
        volume = self._volume(volume_id)
        _check_zone(volume_id, volume["AvailabilityZone"], place)
        attachments = volume.get("Attachments", [])
        if not attachments:
            return PlannedChange(
                f"{volume_id} attached to {instance_id}",
                partial(self._attach_volume, volume_id, device, instance_id),
                is_all=False,
                holders=frozenset(),
            )
        if len(attachments) > 1:
            raise Impossible(f"{volume_id} is attached to several instances")
        holder = attachments[0]["InstanceId"]
        if _is_attached_to(instance_id, volume_id, holder, attachments[0]["State"]):
            return None
        return PlannedChange(
            f"{volume_id} detached from {holder}",
            partial(self._detach_volume, volume_id, holder),
            is_all=False,
            holders=frozenset({holder}),
        )

    @translated()
    def zone_of_volume(self, volume_id: str) -> str:
        """Return the availability zone of a volume."""
        return str(self._volume(volume_id)["AvailabilityZone"])

    @translated()
    def zone_of_interface(self, interface_id: str) -> str:
        """Return the availability zone of a network interface."""
        return str(self._interface(interface_id)["AvailabilityZone"])

    def _instance(self, instance_id: str) -> Any:
        answer = self._ec2.describe_instances(
            Filters=[{"Name": "instance-id", "Values": [instance_id]}]
        )
        instances = [i for reservation in answer["Reservations"] for i in reservation["Instances"]]
        if not instances:
            raise NotReady(f"EC2 does not show {instance_id}")
        return instances[0]

    def _check_subnet(self, address: str, place: NetworkPlacement) -> None:
        answer = self._ec2.describe_subnets(SubnetIds=[place.subnet_id])
        block = answer["Subnets"][0]["CidrBlock"]
        if IPv4Address(address) not in IPv4Network(block):
            raise Impossible(
                f"{address} is not in {place.subnet_id} ({block}), the subnet of "
                f"{place.instance_id}"
            )

    @translated()
    def _move_elastic_ip(
        self, allocation_id: str, *, old_association: str | None, interface_id: str
    ) -> None:
        if old_association is not None:
            self._ec2.disassociate_address(AssociationId=old_association)
        # The call names the interface, since EC2 refuses the id of an instance with several
        # interfaces. With EC2's default for AllowReassociation, the call would take the address
        # from another worker's newer association.
        self._ec2.associate_address(
            AllocationId=allocation_id,
            NetworkInterfaceId=interface_id,
            AllowReassociation=False,
        )

    @translated()
    def _move_private_ip(
        self, address: str, *, old_interface_id: str | None, interface_id: str
    ) -> None:
        if old_interface_id is not None:
            self._ec2.unassign_private_ip_addresses(
                NetworkInterfaceId=old_interface_id, PrivateIpAddresses=[address]
            )
        self._ec2.assign_private_ip_addresses(
            NetworkInterfaceId=interface_id,
            PrivateIpAddresses=[address],
            AllowReassignment=False,
        )

    @translated()
    def _attach_interface(self, interface_id: str, device_index: int, instance_id: str) -> None:
        self._ec2.attach_network_interface(
            NetworkInterfaceId=interface_id, InstanceId=instance_id, DeviceIndex=device_index
        )

    @translated()
    def _detach_interface(self, attachment_id: str) -> None:
        self._ec2.detach_network_interface(AttachmentId=attachment_id)

    @translated()
    def _attach_volume(self, volume_id: str, device: str, instance_id: str) -> None:
        self._ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device=device)

    @translated()
    def _detach_volume(self, volume_id: str, holder: str) -> None:
        # Without Force: a mounted volume stays until it is unmounted or its instance has ended.
        self._ec2.detach_volume(VolumeId=volume_id, InstanceId=holder)


def _holders_of(address: Any) -> frozenset[str] | None:
    """Return the holder of an Elastic IP; None if it is with an interface of no known instance."""
    if address.get("InstanceId"):
        return frozenset({address["InstanceId"]})
    return None if address.get("NetworkInterfaceId") else frozenset()


def _check_zone(resource_id: str, zone: str, place: NetworkPlacement) -> None:
    if zone != place.zone:
        raise Impossible(
            f"{resource_id} is in {zone} and {place.instance_id} in {place.zone}: "
            f"{resource_id} cannot leave its zone"
        )


def _is_attached_to(instance_id: str, resource_id: str, holder: str, state: str) -> bool:
    """Return True if `holder` is the instance; raise NotReady while the attachment changes."""
    if state == "busy":
        raise NotReady(f"{resource_id} is in use on {holder}; it can move once it is unmounted")
    if state != "attached":
        raise NotReady(f"{resource_id} is {state}, at {holder}")
    return holder == instance_id
