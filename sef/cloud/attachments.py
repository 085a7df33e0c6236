"""What EC2 can move from one instance to another, each by comparing and swapping.

A look says how things are, and gives the one call, or pair of calls, that changes them from that.
The call names what was seen, so that EC2 refuses it once somebody else has changed it: whoever has
looked, been frozen, and goes on late changes nothing. So a caller looks first, then makes sure that
it still may, and then moves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

from sef.cloud.clients import Clients
from sef.cloud.ec2 import GONE
from sef.cloud.errors import translated

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client

RACED = frozenset(
    {
        "IncorrectInstanceState",
        "IncorrectState",
        "InvalidAssociationID.NotFound",
        "InvalidAttachment.NotFound",
        "InvalidAttachmentID.NotFound",
        "InvalidChangeBatch",
        "InvalidIPAddress.InUse",
        "InvalidNetworkInterface.InUse",
        "InvalidTarget",
        "PriorRequestNotComplete",
        "Resource.AlreadyAssociated",
        "VolumeInUse",
    }
)
"""It is not as it was seen, or not yet: look again."""


class NotReady(Exception):
    """Nothing can be done now but look again."""


class Impossible(Exception):
    """What is asked for is impossible as things are; a sentence for a person."""


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """What is to be done to get from what was seen to what is wanted.

    Attributes:
        said: what it does, in the past tense.
        make: do it; raises CloudError, of a code in RACED if something is not as it was seen.
        is_all: nothing has to be awaited afterwards.
    """

    said: str
    make: Callable[[], None]
    is_all: bool = True


@dataclass(frozen=True, slots=True)
class NetworkPlacement:
    """Where an instance is, and its first network interface."""

    instance_id: str
    zone: str
    subnet_id: str
    interface_id: str
    private_ip: str
    public_ip: str | None


class Attachments:
    """Elastic IPs, private addresses, network interfaces and volumes.

    Every look returns None when there is nothing to do any more. It raises CloudError when EC2
    refuses or does not answer, NotYet and CannotMove.
    """

    def __init__(self, clients: Callable[[], Clients]) -> None:
        self._clients = clients

    @translated()
    def running(self, instance_id: str) -> None:
        """Raises NotYet until EC2 reports the instance running."""
        state = self._described(instance_id)["State"]["Name"]
        if state in GONE:
            raise Impossible(f"{instance_id} is {state}")
        if state != "running":
            raise NotReady(f"{instance_id} is {state}")

    @translated()
    def place(self, instance_id: str) -> NetworkPlacement:
        described = self._described(instance_id)
        interfaces = described.get("NetworkInterfaces", [])
        first = [i for i in interfaces if i["Attachment"]["DeviceIndex"] == 0]
        if not first:
            raise NotReady(f"{instance_id} has no network interface")
        return NetworkPlacement(
            instance_id,
            described["Placement"]["AvailabilityZone"],
            described["SubnetId"],
            first[0]["NetworkInterfaceId"],
            described["PrivateIpAddress"],
            described.get("PublicIpAddress"),
        )

    @translated()
    def elastic_ip(self, allocation_id: str, instance_id: str) -> PlannedChange | None:
        place = self.place(instance_id)
        answer = self._ec2.describe_addresses(AllocationIds=[allocation_id])
        address = answer["Addresses"][0]
        if address.get("NetworkInterfaceId") == place.interface_id:
            return None
        association = address.get("AssociationId")

        @translated()
        def make() -> None:
            if association is not None:
                self._ec2.disassociate_address(AssociationId=association)
            # By interface: an instance that has several cannot be named. EC2's own default
            # would take the address from whoever has got it meanwhile.
            self._ec2.associate_address(
                AllocationId=allocation_id,
                NetworkInterfaceId=place.interface_id,
                AllowReassociation=False,
            )

        return PlannedChange(
            f"{address['PublicIp']} ({allocation_id}) moved to {instance_id}", make
        )

    @translated()
    def private_ip(self, address: str, instance_id: str) -> PlannedChange | None:
        place = self.place(instance_id)
        self._check_subnet(address, place)
        found = self._ec2.describe_network_interfaces(
            Filters=[
                {"Name": "subnet-id", "Values": [place.subnet_id]},
                {"Name": "addresses.private-ip-address", "Values": [address]},
            ]
        )["NetworkInterfaces"]
        holder = found[0] if found else None
        if holder is not None:
            if holder["NetworkInterfaceId"] == place.interface_id:
                return None
            if holder["PrivateIpAddress"] == address:
                raise Impossible(
                    f"{address} is the primary address of {holder['NetworkInterfaceId']}; only a "
                    "secondary one can be moved"
                )

        @translated()
        def make() -> None:
            if holder is not None:
                self._ec2.unassign_private_ip_addresses(
                    NetworkInterfaceId=holder["NetworkInterfaceId"],
                    PrivateIpAddresses=[address],
                )
            self._ec2.assign_private_ip_addresses(
                NetworkInterfaceId=place.interface_id,
                PrivateIpAddresses=[address],
                AllowReassignment=False,
            )

        return PlannedChange(f"{address} moved to {instance_id}", make)

    @translated()
    def network_interface(
        self, interface_id: str, device_index: int, instance_id: str
    ) -> PlannedChange | None:
        place = self.place(instance_id)
        interface = self._interface(interface_id)
        _check_zone(interface_id, interface["AvailabilityZone"], place)
        attachment = interface.get("Attachment") or {}
        if not attachment:

            @translated()
            def attach() -> None:
                self._ec2.attach_network_interface(
                    NetworkInterfaceId=interface_id,
                    InstanceId=instance_id,
                    DeviceIndex=device_index,
                )

            return PlannedChange(f"{interface_id} attached to {instance_id}", attach, is_all=False)
        holder = attachment.get("InstanceId", "another service")
        if _is_settled(interface_id, attachment["Status"], holder, instance_id):
            return None
        if attachment.get("DeviceIndex") == 0:
            raise Impossible(f"{interface_id} is the first interface of {holder} and stays there")

        @translated()
        def detach() -> None:
            self._ec2.detach_network_interface(AttachmentId=attachment["AttachmentId"])

        return PlannedChange(f"{interface_id} detached from {holder}", detach, is_all=False)

    @translated()
    def volume(self, volume_id: str, device: str, instance_id: str) -> PlannedChange | None:
        place = self.place(instance_id)
        volume = self._volume(volume_id)
        _check_zone(volume_id, volume["AvailabilityZone"], place)
        attachments = volume.get("Attachments", [])
        if not attachments:

            @translated()
            def attach() -> None:
                self._ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device=device)

            return PlannedChange(f"{volume_id} attached to {instance_id}", attach, is_all=False)
        if len(attachments) > 1:
            raise Impossible(f"{volume_id} is attached to several instances")
        holder = attachments[0]["InstanceId"]
        if _is_settled(volume_id, attachments[0]["State"], holder, instance_id):
            return None

        @translated()
        def detach() -> None:
            # Not by force: what is mounted is in use, and stays until it is let go or gone.
            self._ec2.detach_volume(VolumeId=volume_id, InstanceId=holder)

        return PlannedChange(f"{volume_id} detached from {holder}", detach, is_all=False)

    @translated()
    def check_address(self, allocation_id: str) -> None:
        """Raises CloudError when there is no such Elastic IP."""
        self._ec2.describe_addresses(AllocationIds=[allocation_id])

    @translated()
    def zone_of_volume(self, volume_id: str) -> str:
        return str(self._volume(volume_id)["AvailabilityZone"])

    @translated()
    def zone_of_interface(self, interface_id: str) -> str:
        return str(self._interface(interface_id)["AvailabilityZone"])

    @property
    def _ec2(self) -> "EC2Client":
        return self._clients().ec2

    def _described(self, instance_id: str) -> Any:
        answer = self._ec2.describe_instances(
            Filters=[{"Name": "instance-id", "Values": [instance_id]}]
        )
        found = [i for reservation in answer["Reservations"] for i in reservation["Instances"]]
        if not found:
            raise NotReady(f"EC2 does not know {instance_id}")
        return found[0]

    def _interface(self, interface_id: str) -> Any:
        answer = self._ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])
        return answer["NetworkInterfaces"][0]

    def _volume(self, volume_id: str) -> Any:
        return self._ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]

    def _check_subnet(self, address: str, place: NetworkPlacement) -> None:
        answer = self._ec2.describe_subnets(SubnetIds=[place.subnet_id])
        block = answer["Subnets"][0]["CidrBlock"]
        if IPv4Address(address) not in IPv4Network(block):
            raise Impossible(
                f"{address} is not in {place.subnet_id} ({block}), where {place.instance_id} is"
            )


def _check_zone(what: str, zone: str, place: NetworkPlacement) -> None:
    if zone != place.zone:
        raise Impossible(
            f"{what} is in {zone} and {place.instance_id} in {place.zone}: it cannot leave its zone"
        )


def _is_settled(what: str, state: str, holder: str, wanted: str) -> bool:
    """Whether it is where it is wanted; False if it is attached elsewhere."""
    if state not in ("attached", "busy"):
        raise NotReady(f"{what} is {state}, at {holder}")
    if state == "busy":
        raise NotReady(f"{what} is in use on {holder}, which has to let it go")
    return holder == wanted
