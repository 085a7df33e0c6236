"""Add what AWS does at the end of an instance, and moto does not.

- A data volume that RunInstances creates is deleted with its instance unless the call says
  otherwise, and DescribeVolumes shows that.
  https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/preserving-volumes-on-termination.html
- ModifyNetworkInterfaceAttribute changes DeleteOnTermination of an attachment.
  https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyNetworkInterfaceAttribute.html
- A deregistered target is `draining` for the deregistration delay of its group, and
  DescribeTargetHealth lists it until then. AWS shows a target without open connections as draining
  too.
  https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.elastic_block_store import VolumeAttachment
from moto.ec2.responses.elastic_network_interfaces import ElasticNetworkInterfaces
from moto.ec2.responses.instances import InstanceResponse
from moto.elbv2.models import ELBv2Backend, FakeHealthStatus, FakeTargetGroup

DELAY = "deregistration_delay.timeout_seconds"


class Draining:
    """The time in seconds that a deregistered target is draining; None: its group's own delay."""

    def __init__(self) -> None:
        self.seconds: float | None = None

    def until(self, group: Any, deregistered_at: datetime) -> datetime:
        seconds = float(group.attributes[DELAY]) if self.seconds is None else self.seconds
        return deregistered_at + timedelta(seconds=seconds)


def let_things_end() -> Draining:
    """Change moto's classes, once in a process."""
    _show_deletion_of_volumes()
    _delete_launched_volumes()
    _modify_deletion_of_volumes()
    _modify_deletion_of_interfaces()
    return _drain()


def _show_deletion_of_volumes() -> None:
    def delete_on_termination(self: Any) -> bool:
        mapping = self.instance.block_device_mapping.get(self.device)
        return bool(mapping is not None and mapping.delete_on_termination)

    VolumeAttachment.delete_on_termination = property(  # type: ignore[attr-defined]
        delete_on_termination
    )


def _delete_launched_volumes() -> None:
    parse = InstanceResponse._parse_block_device_mapping

    def parse_with_default(self: Any) -> list[dict[str, Any]]:
        mappings = parse(self)
        for given, mapping in zip(
            self._get_param("BlockDeviceMappings", []), mappings, strict=True
        ):
            if "DeleteOnTermination" not in given.get("Ebs", {}):
                mapping["Ebs"]["DeleteOnTermination"] = True
        return mappings

    InstanceResponse._parse_block_device_mapping = parse_with_default  # type: ignore[method-assign]


def _modify_deletion_of_volumes() -> None:
    modify: Callable[[Any], bool] = InstanceResponse._block_device_mapping_handler

    def checked_modify(self: Any) -> bool:
        for mapping in self._get_param("BlockDeviceMappings", []):
            instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
            if mapping["DeviceName"] not in instance.block_device_mapping:
                raise EC2ClientError(
                    "InvalidInstanceAttributeValue",
                    f"No device is currently mapped at {mapping['DeviceName']}",
                )
        return modify(self)

    InstanceResponse._block_device_mapping_handler = checked_modify  # type: ignore[method-assign]


def _modify_deletion_of_interfaces() -> None:
    modify: Callable[[Any], Any] = ElasticNetworkInterfaces.modify_network_interface_attribute

    def modify_attachment(self: Any) -> Any:
        change = self._get_param("Attachment") or {}
        if "DeleteOnTermination" in change:
            eni = self.ec2_backend.get_network_interface(self._get_param("NetworkInterfaceId"))
            if eni.attachment_id is None or change.get("AttachmentId") != eni.attachment_id:
                raise EC2ClientError(
                    "InvalidAttachmentID.NotFound",
                    f"The attachment '{change.get('AttachmentId')}' does not exist",
                )
            eni.delete_on_termination = change["DeleteOnTermination"] in (True, "true")
        return modify(self)

    ElasticNetworkInterfaces.modify_network_interface_attribute = (  # type: ignore[method-assign]
        modify_attachment
    )


def _drain() -> Draining:
    draining = Draining()
    deregister: Callable[..., None] = FakeTargetGroup.deregister
    register: Callable[..., None] = FakeTargetGroup.register
    describe: Callable[..., list[FakeHealthStatus]] = ELBv2Backend.describe_target_health

    def deregister_and_note(self: Any, targets: list[dict[str, Any]]) -> None:
        registered = {(one["Id"], str(one["Port"])) for one in self.targets.values()}
        deregister(self, targets)
        left = self.__dict__.setdefault("left_at", {})
        named = {(one["Id"], str(one.get("Port", self.port))) for one in targets}
        left |= dict.fromkeys(registered & named, utcnow())

    def register_and_forget(self: Any, targets: list[dict[str, Any]]) -> None:
        register(self, targets)
        left = self.__dict__.get("left_at", {})
        for one in targets:
            left.pop((one["Id"], str(one.get("Port", self.port))), None)

    def describe_with_draining(
        self: Any, target_group_arn: str, targets: Sequence[dict[str, Any]]
    ) -> list[FakeHealthStatus]:
        shown = describe(self, target_group_arn, targets)
        group = self.target_groups[target_group_arn]
        asked = {target["Id"] for target in targets}
        leaving = [
            FakeHealthStatus(
                instance_id,
                port,
                group.health_check_port,
                "draining",
                "Target.DeregistrationInProgress",
                "Target deregistration is in progress",
            )
            for (instance_id, port), at in group.__dict__.get("left_at", {}).items()
            if utcnow() < draining.until(group, at) and (not asked or instance_id in asked)
        ]
        gone = {status.instance_id for status in leaving} if asked else set()
        kept = [s for s in shown if s.instance_id not in gone or s.status != "unused"]
        return [*kept, *leaving]

    FakeTargetGroup.deregister = deregister_and_note  # type: ignore[method-assign]
    FakeTargetGroup.register = register_and_forget  # type: ignore[method-assign]
    ELBv2Backend.describe_target_health = describe_with_draining  # type: ignore[method-assign]
    return draining
