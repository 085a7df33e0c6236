"""Move addresses, network interfaces and volumes between instances, by compare-and-swap.

1. A method of `Attachments` looks up the present state and plans a change from exactly that state.
2. The caller checks that it may still make the change.
3. The caller makes the change. The calls for interfaces and volumes name the state that was seen,
   so EC2 refuses them once another worker has changed the state. A worker that was suspended after
   its look-up thus cannot undo newer changes. Addresses: see `sef.cloud.addresses`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from sef.cloud import late_calls
from sef.cloud.addresses import AddressMoves
from sef.cloud.changes import RACED, Impossible, NotReady, PlannedChange, Waits
from sef.cloud.errors import translated
from sef.cloud.holders import OTHER_SERVICE
from sef.cloud.placement import Binding, NetworkPlacement
from sef.cloud.resources import Resources
from sef.devices import same_device

__all__ = [
    "RACED",
    "Attachments",
    "Binding",
    "Impossible",
    "NetworkPlacement",
    "NotReady",
    "PlannedChange",
    "Waits",
]


class Attachments(AddressMoves, Resources):
    """Elastic IPs, private addresses, network interfaces and volumes.

    Each method that plans a change returns None if the wanted state is reached.

    Args of these methods:
        calm: nothing presses, so see first that the instance can take what another one gives.

    Raises:
        CloudError: EC2 refused a call or did not answer.
        NotReady: the change has to wait.
        Impossible: the change cannot be made in the present state.
    """

    @contextmanager
    def sent_only_if(self, check: Callable[[], None]) -> Iterator[None]:
        """Run a check just before each call of this thread is sent, and not send it if it raises.

        See `sef.cloud.late_calls`.
        """
        with late_calls.sent_only_if(self._ec2, check):
            yield

    @translated()
    def network_interface(
        self, interface_id: str, device_index: int, instance_id: str, *, calm: bool = False
    ) -> PlannedChange | None:
        """Plan to detach an interface from its holder, or to attach it to an instance.

        An interface that the instance has at another device index stays there.
        """
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
        index = attachment.get("DeviceIndex")
        if _is_attached_to(instance_id, interface_id, holder, attachment["Status"]):
            if index in (None, device_index):
                return None
            return PlannedChange(
                f"{instance_id} already has it",
                lambda: None,
                holders=frozenset(),
                caveat=f"its device index is {index}, not {device_index}, and SEF leaves it there",
            )
        if index == 0:
            raise Impossible(f"{interface_id} is the first interface of {holder} and stays there")
        if calm:
            self.accepts_interface(interface_id, device_index, place)
        return PlannedChange(
            f"{interface_id} detached from {holder}",
            partial(self._detach_interface, attachment["AttachmentId"]),
            is_all=False,
            holder=holder,
            holders=frozenset({holder}),
            bound={"device_index": index},
        )

    def interface_back(
        self, interface_id: str, device_index: int, instance_id: str
    ) -> PlannedChange:
        """Plan to attach a free interface to the instance that it was taken from."""
        return PlannedChange(
            f"{interface_id} put back to {instance_id}",
            partial(self._attach_interface, interface_id, device_index, instance_id),
            is_all=False,
        )

    @translated()
    def volume(
        self, volume_id: str, device: str, instance_id: str, *, calm: bool = False
    ) -> PlannedChange | None:
        """Plan to detach a volume from its holder, or to attach it to an instance.

        A volume that the instance has under another device stays: the operating system may have
        mounted it.
        """
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
        held_as = attachments[0].get("Device")
        if _is_attached_to(instance_id, volume_id, holder, attachments[0]["State"]):
            if held_as is None or same_device(held_as) == same_device(device):
                return None
            return PlannedChange(
                f"{instance_id} already has it",
                lambda: None,
                holders=frozenset(),
                caveat=f"it is attached as {held_as}, not as {device}, and SEF leaves it there",
            )
        if calm:
            self.accepts_volume(volume_id, device, place, held_as=held_as)
        return PlannedChange(
            f"{volume_id} detached from {holder}",
            partial(self._detach_volume, volume_id, holder),
            is_all=False,
            holder=holder,
            holders=frozenset({holder}),
            bound={"device": held_as or device},
        )

    def volume_back(self, volume_id: str, device: str, instance_id: str) -> PlannedChange:
        """Plan to attach a free volume to the instance that it was taken from."""
        return PlannedChange(
            f"{volume_id} put back to {instance_id}",
            partial(self._attach_volume, volume_id, device, instance_id),
            is_all=False,
        )

    @translated()
    def zone_of_volume(self, volume_id: str) -> str:
        """Return the availability zone of a volume."""
        return str(self._volume(volume_id)["AvailabilityZone"])

    @translated()
    def zone_of_interface(self, interface_id: str) -> str:
        """Return the availability zone of a network interface."""
        return str(self._interface(interface_id)["AvailabilityZone"])

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
