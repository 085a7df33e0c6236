"""Refuse the changes that AWS refuses and moto makes.

SEF's cutovers rest on AWS's compare-and-swap. moto takes a volume, a network interface or a private
address from another holder; the checks here refuse that, with AWS's error codes
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html). The rules of DNS
records are in `dns_rules`, those of target groups in `target_groups`.

`sef.simulator.server.ec2_moves` has the rules for Elastic IPs, limits and device names.

One more difference is removed: here a terminated instance releases its addresses and interfaces.
"""

from collections.abc import Sequence
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instances import Instance

from sef.simulator.server.dns_rules import check_records
from sef.simulator.server.ec2_moves import check_device, check_interface_count, move_addresses
from sef.simulator.server.target_groups import TargetHealth, check_target_groups


def check_region(backend: Any) -> None:
    """Add AWS's checks to moto's EC2 of one region."""
    _check_volumes(backend)
    _check_interfaces(backend)
    _check_private_addresses(backend)


def check_all_regions() -> TargetHealth:
    """Add AWS's checks to moto's classes, once in a process."""
    _find_secondary_addresses()
    _release_on_termination()
    check_records()
    move_addresses()
    return check_target_groups()


def _check_volumes(backend: Any) -> None:
    attach_volume, detach_volume = backend.attach_volume, backend.detach_volume

    def checked_attach_volume(
        volume_id: str, instance_id: str, device: str, *args: Any, **kwargs: Any
    ) -> Any:
        volume, instance = backend.get_volume(volume_id), backend.get_instance(instance_id)
        if volume.attachment:
            raise EC2ClientError("VolumeInUse", f"{volume_id} is already attached to an instance")
        if volume.zone.name != instance.placement.zone:
            raise EC2ClientError(
                "InvalidVolume.ZoneMismatch",
                f"The volume '{volume_id}' is not in the same availability zone as instance "
                f"'{instance_id}'",
            )
        if instance.state not in ("running", "stopped"):
            raise EC2ClientError("IncorrectState", f"Instance '{instance_id}' is not 'running'.")
        check_device(instance, device)
        return attach_volume(volume_id, instance_id, device, *args, **kwargs)

    def checked_detach_volume(volume_id: str, instance_id: str | None, device: Any = None) -> Any:
        attachment = backend.get_volume(volume_id).attachment
        if not attachment:
            raise EC2ClientError(
                "IncorrectState", f"Volume '{volume_id}' is in the 'available' state."
            )
        holder = attachment.instance.id
        if instance_id not in (None, holder):
            raise EC2ClientError(
                "InvalidAttachment.NotFound",
                f"The volume '{volume_id}' is not attached to instance '{instance_id}'.",
            )
        return detach_volume(volume_id, holder, device)

    vars(backend).update(attach_volume=checked_attach_volume, detach_volume=checked_detach_volume)


def _check_interfaces(backend: Any) -> None:
    attach_interface = backend.attach_network_interface

    def checked_attach_interface(eni_id: str, instance_id: str, device_index: Any) -> Any:
        eni, instance = backend.get_network_interface(eni_id), backend.get_instance(instance_id)
        if eni.attachment_id:
            raise EC2ClientError("InvalidNetworkInterface.InUse", f"Interface: [{eni_id}] in use.")
        if int(device_index) in instance.nics:
            raise EC2ClientError(
                "InvalidParameterValue",
                f"Instance '{instance_id}' already has an interface attached at device index "
                f"'{device_index}'.",
            )
        check_interface_count(instance)
        return attach_interface(eni_id, instance_id, device_index)

    backend.attach_network_interface = checked_attach_interface


def _check_private_addresses(backend: Any) -> None:
    assign, unassign = backend.assign_private_ip_addresses, backend.unassign_private_ip_addresses

    def checked_assign(
        eni_id: str, private_ip_addresses: Sequence[str] | None = None, *args: Any
    ) -> Any:
        eni = backend.get_network_interface(eni_id)
        for other in backend.enis.values():
            taken = set(_addresses(other)) & set(private_ip_addresses or [])
            if taken and other is not eni and other.subnet.id == eni.subnet.id:
                raise EC2ClientError(
                    "InvalidParameterValue",
                    f"{sorted(taken)} are already assigned to {other.id}",
                )
        return assign(eni_id, private_ip_addresses, *args)

    def checked_unassign(eni_id: str, private_ip_address: Sequence[str] | None = None) -> Any:
        missing = set(private_ip_address or []) - set(
            _addresses(backend.get_network_interface(eni_id))
        )
        if missing:
            raise EC2ClientError(
                "InvalidParameterValue",
                f"Some of the specified addresses are not assigned to interface {eni_id}",
            )
        return unassign(eni_id, private_ip_address)

    vars(backend).update(
        assign_private_ip_addresses=checked_assign,
        unassign_private_ip_addresses=checked_unassign,
    )


def _find_secondary_addresses() -> None:
    """Let the filter by private address find secondary addresses too."""
    moto_filter_value = NetworkInterface.get_filter_value

    def get_filter_value(self: Any, name: str, method: str | None = None) -> Any:
        if name == "addresses.private-ip-address":
            return _addresses(self)
        return moto_filter_value(self, name, method)

    NetworkInterface.get_filter_value = get_filter_value  # type: ignore[method-assign, assignment]


def _release_on_termination() -> None:
    """Let a terminated instance release its Elastic IPs, addresses and added interfaces."""
    terminate = Instance.terminate

    def terminate_and_release(self: Any) -> Any:
        result = terminate(self)
        interfaces = list(self.nics.values())
        for address in self.ec2_backend.addresses:
            if address.eni in interfaces:
                address.eni = address.instance = address.association_id = None
        for eni in interfaces:
            eni.private_ip_addresses = [a for a in eni.private_ip_addresses if a.get("Primary")]
            if eni.device_index:
                self.detach_eni(eni)
        return result

    Instance.terminate = terminate_and_release  # type: ignore[method-assign]


def _addresses(eni: Any) -> list[str]:
    return [address["PrivateIpAddress"] for address in eni.private_ip_addresses]
