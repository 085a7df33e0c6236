"""Refuse the changes that AWS refuses and moto makes.

SEF's cutovers rest on AWS's compare-and-swap. moto takes a volume, a network interface, a private
address or a DNS record from another holder; the checks here refuse that, with AWS's error codes
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html, and the errors of
ChangeResourceRecordSets in the Route 53 API reference). moto also deletes a DNS record that had the
given values at any earlier time.

Two more differences are removed: here a terminated instance releases its addresses and interfaces,
and a new target of a target group is not healthy at once.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import timedelta
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instances import Instance
from moto.elbv2.models import FakeHealthStatus, FakeTargetGroup
from moto.route53.exceptions import Route53ClientError
from moto.route53.models import ChangeList, Route53Backend


class TargetHealth:
    """The time in seconds that a new target is `initial` before it is healthy."""

    def __init__(self) -> None:
        self.initial_seconds = 0.0


def check_region(backend: Any) -> None:
    """Add AWS's checks to moto's EC2 of one region."""
    _check_volumes(backend)
    _check_interfaces(backend)
    _check_private_addresses(backend)


def check_all_regions() -> TargetHealth:
    """Add AWS's checks to moto's classes, once in a process."""
    _find_secondary_addresses()
    _release_on_termination()
    _compare_records()
    return _delay_target_health()


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
        if device in instance.block_device_mapping:
            raise EC2ClientError(
                "InvalidParameterValue",
                f"Invalid value '{device}' for unixDevice. Attachment point {device} is already "
                "in use",
            )
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


def _compare_records() -> None:
    """Let Route 53 compare each change with the present records, before it makes any."""
    change = Route53Backend.change_resource_record_sets

    def checked_change(self: Any, zoneid: str, change_list: list[dict[str, Any]]) -> None:
        zone = self.get_hosted_zone(zoneid)
        records = {
            (r.name.strip("."), r.type, r.set_identifier): (r.ttl, sorted(r.records or []))
            for r in zone.rrsets
        }
        for entry in change_list:
            record = entry["ResourceRecordSet"]
            key = (record["Name"].strip("."), record["Type"], record.get("SetIdentifier"))
            values = [r["Value"] for r in record.get("ResourceRecords") or []]
            wanted = (record.get("TTL"), sorted(values))
            name = f"resource record set [name='{key[0]}.', type='{key[1]}']"
            if entry["Action"] == "CREATE" and key in records:
                raise _invalid_batch(f"Tried to create {name} but it already exists")
            if entry["Action"] == "DELETE":
                if key not in records:
                    raise _invalid_batch(f"Tried to delete {name} but it was not found")
                if _comparable(records.pop(key)) != _comparable(wanted):
                    raise _invalid_batch(
                        f"Tried to delete {name} but the values provided do not match the "
                        "current values"
                    )
            else:
                records[key] = wanted
        # moto's own checks compare with all earlier changes, so it gets only the present ones.
        zone.rr_changes = ChangeList()
        for entry in change_list:
            if entry["Action"] == "DELETE":
                zone.rr_changes.append({**deepcopy(entry), "Action": "UPSERT"})
        change(self, zoneid, change_list)

    Route53Backend.change_resource_record_sets = checked_change  # type: ignore[method-assign]


def _delay_target_health() -> TargetHealth:
    """Let a new target of a target group be `initial` for a time before it is healthy."""
    health = TargetHealth()
    register: Callable[..., None] = FakeTargetGroup.register
    health_for = FakeTargetGroup.health_for

    def register_and_note(self: Any, targets: list[dict[str, Any]]) -> None:
        known = set(self.targets)
        register(self, targets)
        registered_at = self.__dict__.setdefault("registered_at", {})
        registered_at |= {t["Id"]: utcnow() for t in targets if t["Id"] not in known}

    def delayed_health(self: Any, target: Mapping[str, Any], *args: Any) -> FakeHealthStatus:
        status = health_for(self, dict(target), *args)
        at = self.__dict__.get("registered_at", {}).get(target["Id"])
        is_new = at and utcnow() - at < timedelta(seconds=health.initial_seconds)
        if status.status == "healthy" and is_new:
            status.status, status.reason = "initial", "Elb.RegistrationInProgress"
        return status

    FakeTargetGroup.register = register_and_note  # type: ignore[method-assign]
    FakeTargetGroup.health_for = delayed_health  # type: ignore[method-assign, assignment]
    return health


def _addresses(eni: Any) -> list[str]:
    return [address["PrivateIpAddress"] for address in eni.private_ip_addresses]


def _comparable(record: tuple[Any, list[str]]) -> tuple[str, list[str]]:
    return str(record[0]), record[1]


def _invalid_batch(message: str) -> Route53ClientError:
    return Route53ClientError("InvalidChangeBatch", message)
