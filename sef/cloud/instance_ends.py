"""Look up and change what ends with an instance, and what launches another in its place.

Sources:

- DeleteOnTermination of a volume: a data volume that is created at the launch by the command line
  or the API is deleted with its instance by default, one that is attached later is not; the flag
  can be changed while the instance exists.
  https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/preserving-volumes-on-termination.html
- The same flag of an interface belongs to its attachment.
  https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyNetworkInterfaceAttribute.html
- A persistent spot request is open again after its instance was interrupted or terminated, and
  launches another one, or starts the stopped one. Cancel the request first, then terminate the
  instance. The cancellation leaves a running instance, and terminates a stopped one.
  https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-spot-instances-cancel.html
  https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/interruption-behavior.html
- A fleet of type `maintain` replaces an instance that ends. The type of a fleet is shown by
  DescribeFleets and DescribeSpotFleetRequests.
  https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_FleetData.html
- A deregistered target is `draining` for the deregistration delay of its group: 0 to 3600 s, by
  default 300 s. https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetGroupAttribute.html
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sef.cloud.clients import Clients
from sef.cloud.errors import translated

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client

DEFAULT_DELAY = timedelta(seconds=300)
"""Deregistration delay of a target group for which no other is set."""

GROUP_TAG = "aws:autoscaling:groupName"
FLEET_TAG = "aws:ec2:fleet-id"
SPOT_FLEET_TAG = "aws:ec2spot:fleet-request-id"
"""Tags of AWS that name the Auto Scaling group or the fleet of an instance."""

LIVE_REQUEST = frozenset({"open", "active", "disabled"})
"""States of a spot request that can be cancelled."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A volume or a network interface, and the instance that it is attached to.

    Attributes:
        handle: the name of the device, or the id of the interface's attachment.
        is_deleted: EC2 deletes it when the instance is terminated (DeleteOnTermination).
    """

    resource_id: str
    instance_id: str
    handle: str
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class SpotRequest:
    """A spot request.

    Attributes:
        instance_id: the instance that it has launched last; None while it is open.
        behavior: what an interruption does to the instance: terminate, stop or hibernate.
    """

    id: str
    is_persistent: bool
    state: str
    instance_id: str | None
    behavior: str

    @property
    def brings_back(self) -> bool:
        """True if it launches or starts an instance again after the end of the present one."""
        return self.is_persistent and self.state in LIVE_REQUEST


class InstanceEnds:
    """Calls about the end of instances.

    Raises:
        CloudError: AWS refused a call or did not answer.
    """

    def __init__(self, clients: Callable[[], Clients]) -> None:
        self._clients = clients

    @translated()
    def volumes(self, volume_ids: Collection[str]) -> list[Attachment]:
        """Return the attachments of volumes. A filter does not fail for an unknown id."""
        if not volume_ids:
            return []
        answer = self._ec2.describe_volumes(
            Filters=[{"Name": "volume-id", "Values": sorted(volume_ids)}]
        )
        return [
            Attachment(
                volume["VolumeId"],
                attachment["InstanceId"],
                attachment["Device"],
                bool(attachment.get("DeleteOnTermination")),
            )
            for volume in answer["Volumes"]
            for attachment in volume.get("Attachments", [])
            if "InstanceId" in attachment
        ]

    @translated()
    def interfaces(self, interface_ids: Collection[str]) -> list[Attachment]:
        """Return the attachments of network interfaces to instances."""
        if not interface_ids:
            return []
        answer = self._ec2.describe_network_interfaces(
            Filters=[{"Name": "network-interface-id", "Values": sorted(interface_ids)}]
        )
        return [
            Attachment(
                interface["NetworkInterfaceId"],
                attachment["InstanceId"],
                attachment["AttachmentId"],
                bool(attachment.get("DeleteOnTermination")),
            )
            for interface in answer["NetworkInterfaces"]
            for attachment in [interface.get("Attachment") or {}]
            if "InstanceId" in attachment
        ]

    @translated()
    def keep_volumes(self, instance_id: str, volumes: Mapping[str, str]) -> None:
        """Let volumes survive the end of their instance.

        Args:
            volumes: the id of each volume by its device at the instance.
        """
        self._ec2.modify_instance_attribute(
            InstanceId=instance_id,
            BlockDeviceMappings=[
                {"DeviceName": device, "Ebs": {"VolumeId": volume, "DeleteOnTermination": False}}
                for device, volume in sorted(volumes.items())
            ],
        )

    @translated()
    def keep_interface(self, interface_id: str, attachment_id: str) -> None:
        """Let a network interface survive the end of its instance."""
        self._ec2.modify_network_interface_attribute(
            NetworkInterfaceId=interface_id,
            Attachment={"AttachmentId": attachment_id, "DeleteOnTermination": False},
        )

    @translated()
    def spot_request(self, request_id: str) -> SpotRequest | None:
        """Return a spot request; None if EC2 does not show it."""
        answer = self._ec2.describe_spot_instance_requests(
            Filters=[{"Name": "spot-instance-request-id", "Values": [request_id]}]
        )
        return next(
            (
                SpotRequest(
                    request["SpotInstanceRequestId"],
                    request.get("Type") == "persistent",
                    request["State"],
                    request.get("InstanceId"),
                    request.get("InstanceInterruptionBehavior", "terminate"),
                )
                for request in answer["SpotInstanceRequests"]
            ),
            None,
        )

    @translated()
    def cancel_spot_request(self, request_id: str) -> None:
        """Cancel a spot request. EC2 then terminates its instance if that one is stopped."""
        self._ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[request_id])

    @translated()
    def maintains(self, fleet_id: str) -> bool:
        """Return True if an EC2 Fleet or a Spot Fleet replaces an instance that ends.

        A fleet that is deleted, or that AWS does not show any more, replaces none.
        """
        if fleet_id.startswith("sfr-"):
            fleets = self._ec2.describe_spot_fleet_requests(SpotFleetRequestIds=[fleet_id])
            return any(
                one["SpotFleetRequestConfig"].get("Type", "maintain") == "maintain"
                and not one["SpotFleetRequestState"].startswith("cancelled")
                for one in fleets["SpotFleetRequestConfigs"]
            )
        return any(
            one.get("Type", "maintain") == "maintain"
            and not one["FleetState"].startswith("deleted")
            for one in self._ec2.describe_fleets(FleetIds=[fleet_id])["Fleets"]
        )

    @translated()
    def draining(self, arn: str) -> Sequence[str]:
        """Return the instances that were deregistered from a group and may have connections."""
        answer = self._clients().elbv2.describe_target_health(TargetGroupArn=arn)
        return sorted(
            {
                target["Target"]["Id"]
                for target in answer["TargetHealthDescriptions"]
                if target["TargetHealth"]["State"] == "draining"
            }
        )

    @translated()
    def deregistration_delay(self, arn: str) -> timedelta:
        """Return the time that a deregistered target of a group may be draining."""
        answer = self._clients().elbv2.describe_target_group_attributes(TargetGroupArn=arn)
        seconds = {one["Key"]: one["Value"] for one in answer["Attributes"]}
        given = seconds.get("deregistration_delay.timeout_seconds")
        return DEFAULT_DELAY if given is None else timedelta(seconds=int(given))

    @translated()
    def record_ttl(self, zone_id: str, name: str, kind: str) -> timedelta:
        """Return the TTL of a record; 0 if there is no such record."""
        answer = self._clients().route53.list_resource_record_sets(
            HostedZoneId=zone_id,
            StartRecordName=name,
            StartRecordType=kind,  # type: ignore[arg-type]
            MaxItems="1",
        )
        seconds = [
            record.get("TTL", 0)
            for record in answer["ResourceRecordSets"]
            if record["Name"].rstrip(".").lower() == name and record["Type"] == kind
        ]
        return timedelta(seconds=max(seconds, default=0))

    @property
    def _ec2(self) -> "EC2Client":
        return self._clients().ec2
