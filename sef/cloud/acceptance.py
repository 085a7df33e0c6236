"""See that an instance can take a target, before the instance that serves gives it.

A check that EC2 does not answer, for example because the rights to it are missing, is left out: the
change itself then shows the truth, and SEF gives the target back.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from sef.cloud.changes import RACED, Impossible
from sef.cloud.clients import Clients
from sef.cloud.errors import CloudError, translated
from sef.cloud.placement import Interface, NetworkPlacement, Placements
from sef.cloud.places import PlaceLookups, TypeLimits
from sef.devices import is_listed, same_device

log = logging.getLogger("sef")

T = TypeVar("T")

_DRY_RUN = "DryRunOperation"
"""Code of a call with DryRun that would have been allowed.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonParameters.html
"""


class Acceptance(Placements):
    """Checks of an instance that is to take a target.

    Each check returns nothing, and raises if EC2 would refuse the target.

    Raises:
        Impossible: EC2 would refuse it.
        CloudError: EC2 refused a rehearsal of the call, or did not answer it.
    """

    def __init__(self, clients: Callable[[], Clients]) -> None:
        super().__init__(clients)
        self._places = PlaceLookups(clients)
        self._unchecked: set[str] = set()

    def accepts_volume(
        self, volume_id: str, device: str, place: NetworkPlacement, *, held_as: str | None
    ) -> None:
        """Check device name, free device, limit of attachments, and rights.

        Args:
            held_as: device name at the holder: EC2 took that one.
        """
        if device != held_as and not is_listed(device):
            raise Impossible(
                f"EC2 does not list {device} as a device name for volumes, so {volume_id} stays "
                f"where it is; name one such as /dev/sdf"
            )
        taken = {same_device(name): (name, volume) for name, volume in place.devices.items()}
        if same_device(device) in taken:
            name, other = taken[same_device(device)]
            raise Impossible(
                f"device {device} of {place.instance_id} is in use: {other} is attached as {name}; "
                f"name another device, or detach {other}"
            )
        limit = self._most_volumes(place)
        if limit is not None and len(place.devices) >= limit:
            raise Impossible(
                f"{place.instance_id} has {len(place.devices)} volumes, and a {place.instance_type}"
                f" takes no more: detach one, or use a larger type"
            )
        self._rehearse(
            self._ec2.attach_volume,
            VolumeId=volume_id,
            InstanceId=place.instance_id,
            Device=device,
        )

    def accepts_interface(
        self, interface_id: str, device_index: int, place: NetworkPlacement
    ) -> None:
        """Check free device index, limit of interfaces, and rights."""
        other = place.at_index(device_index)
        if other is not None:
            raise Impossible(
                f"device index {device_index} of {place.instance_id} is in use by {other.id}; "
                "name another device_index, or detach that interface"
            )
        limit = self._limits(place).interfaces
        if limit is not None and len(place.interfaces) >= limit:
            raise Impossible(
                f"{place.instance_id} has {len(place.interfaces)} network interfaces, and a "
                f"{place.instance_type} takes no more: detach one, or use a larger type"
            )
        self._rehearse(
            self._ec2.attach_network_interface,
            NetworkInterfaceId=interface_id,
            InstanceId=place.instance_id,
            DeviceIndex=device_index,
        )

    def accepts_private_ip(self, address: str, at: Interface, place: NetworkPlacement) -> None:
        """Check the limit of addresses. The call has no DryRun, so the rights are not checked."""
        limit = self._limits(place).addresses
        if limit is not None and len(at.addresses) >= limit:
            raise Impossible(
                f"{at.id} of {place.instance_id} has {len(at.addresses)} private addresses, and an "
                f"interface of a {place.instance_type} takes no more: unassign one, or use a "
                "larger type"
            )

    def accepts_elastic_ip(
        self, address: Any, interface_id: str, private_ip: str, place: NetworkPlacement
    ) -> None:
        """Check network border group, another Elastic IP at the same address, and rights.

        AWS would disassociate the other Elastic IP, and refuses another border group:
        https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssociateAddress.html
        """
        allocation_id, group = address["AllocationId"], address.get("NetworkBorderGroup")
        groups = self._optional("DescribeAvailabilityZones", self._places.border_groups)
        own = (groups or {}).get(place.zone)
        if group and own and group != own:
            raise Impossible(
                f"{allocation_id} is of the network border group {group} and {place.instance_id} "
                f"in {place.zone} of {own}: AWS does not associate them"
            )
        occupant = self._occupant(allocation_id, interface_id, private_ip)
        if occupant is not None:
            raise Impossible(
                f"{private_ip} of {place.instance_id} already has the Elastic IP {occupant}, which "
                f"{allocation_id} would replace: disassociate {occupant} first"
            )
        self._rehearse(
            self._ec2.associate_address,
            AllocationId=allocation_id,
            NetworkInterfaceId=interface_id,
            PrivateIpAddress=private_ip,
            AllowReassociation=True,
        )

    def _occupant(self, allocation_id: str, interface_id: str, private_ip: str) -> str | None:
        found = self._optional(
            "DescribeAddresses",
            lambda: self._ec2.describe_addresses(
                Filters=[{"Name": "network-interface-id", "Values": [interface_id]}]
            )["Addresses"],
        )
        for one in found or []:
            if one["AllocationId"] != allocation_id and one.get("PrivateIpAddress") == private_ip:
                return f"{one['PublicIp']} ({one['AllocationId']})"
        return None

    def _most_volumes(self, place: NetworkPlacement) -> int | None:
        """Return the number of volumes that the type takes beside its interfaces, as far as known.

        With the limit type `shared`, further interfaces and NVMe disks count too. The first
        interface is left out: the page has 28 for types for which DescribeInstanceTypes has 27.
        https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/volume_limits.html
        """
        limits = self._limits(place)
        if limits.volumes is None or not limits.shares_attachments:
            return limits.volumes
        return limits.volumes - (len(place.interfaces) - 1) - limits.local_disks

    def _limits(self, place: NetworkPlacement) -> TypeLimits:
        """Return the limits of an instance's type, as far as they are known."""
        kind = place.instance_type
        found = self._optional("DescribeInstanceTypes", lambda: self._places.limits([kind]))
        return (found or {}).get(kind, TypeLimits())

    def _optional(self, action: str, call: Callable[[], T]) -> T | None:
        """Return the answer of a call; None, with one warning, if EC2 refuses it."""
        try:
            with translated():
                return call()
        except CloudError as error:
            if action not in self._unchecked:
                self._unchecked.add(action)
                log.warning(
                    "SEF: %s failed (%s), so SEF does not check beforehand that a new primary can "
                    "take the cutover targets; allow ec2:%s",
                    action,
                    error,
                    action,
                )
            return None

    def _rehearse(self, call: Callable[..., Any], **parameters: Any) -> None:
        """Ask EC2 for the rights to a call with DryRun.

        EC2 documents that DryRun checks the rights. If it checks the state too, a target that its
        holder still has must not count as refused.
        """
        try:
            with translated():
                call(**parameters, DryRun=True)
        except CloudError as error:
            cause = error.__cause__
            is_allowed = isinstance(cause, ClientError) and error.code == _DRY_RUN
            if not is_allowed and error.code not in RACED:
                raise
