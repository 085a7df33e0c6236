"""Look up the instances that hold addresses, network interfaces and volumes now."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sef.cloud.clients import Clients
from sef.cloud.ec2 import ENDED, FILTER_VALUES
from sef.cloud.errors import translated

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client
    from mypy_boto3_ec2.type_defs import FilterTypeDef

OTHER_SERVICE = "another service"
"""Holder of an interface that is attached to no instance, such as that of a NAT gateway."""


@dataclass(frozen=True, slots=True)
class ShownInstance:
    """The state of an instance that EC2 shows, and the addresses of its first interface.

    An instance that has ended has no address any more.
    """

    state: str
    private_ip: str | None
    public_ip: str | None
    vpc_id: str | None = None

    @property
    def addresses(self) -> frozenset[str]:
        return frozenset(one for one in (self.private_ip, self.public_ip) if one)


class HolderLookups:
    """Look-ups of holders in EC2.

    Raises:
        CloudError: EC2 refused a call or did not answer.
    """

    def __init__(self, clients: Callable[[], Clients]) -> None:
        self._clients = clients

    @translated()
    def shown(self, instance_ids: Collection[str]) -> dict[str, ShownInstance]:
        """Return those of the instances that EC2 shows, by id."""
        shown = {}
        for instance in self._instances(sorted(instance_ids)):
            state = instance["State"]["Name"]
            own = {} if state in ENDED else instance
            shown[instance["InstanceId"]] = ShownInstance(
                state,
                own.get("PrivateIpAddress") or None,
                own.get("PublicIpAddress") or None,
                instance.get("VpcId"),
            )
        return shown

    @translated()
    def holders_of_address(self, allocation_id: str) -> set[str]:
        """Return the instance with which an Elastic IP is associated, if there is one."""
        address = self._ec2.describe_addresses(AllocationIds=[allocation_id])["Addresses"][0]
        if address.get("InstanceId"):
            return {address["InstanceId"]}
        interface_id = address.get("NetworkInterfaceId")
        if not interface_id:
            return set()
        found = self._ec2.describe_network_interfaces(
            Filters=[{"Name": "network-interface-id", "Values": [interface_id]}]
        )
        return attached_to(found["NetworkInterfaces"])

    @translated()
    def holders_of_private_ip(self, address: str, vpc_id: str | None = None) -> set[str]:
        """Return the instances with an interface that has a private address.

        Args:
            vpc_id: the VPC that is meant. None: any, and there can be one instance in each.
        """
        filters: list[FilterTypeDef] = [
            {"Name": "addresses.private-ip-address", "Values": [address]}
        ]
        if vpc_id is not None:
            filters.append({"Name": "vpc-id", "Values": [vpc_id]})
        found = self._ec2.describe_network_interfaces(Filters=filters)
        return attached_to(found["NetworkInterfaces"])

    @translated()
    def vpc_of(self, instance_id: str) -> str | None:
        """Return the VPC of an instance; None if EC2 does not show the instance or its VPC."""
        found = list(self._instances([instance_id]))
        return found[0].get("VpcId") if found else None

    @translated()
    def holders_of_interface(self, interface_id: str) -> set[str]:
        """Return the instance that a network interface is attached to, if there is one."""
        return attached_to([self._interface(interface_id)])

    @translated()
    def holders_of_volume(self, volume_id: str) -> set[str]:
        """Return the instances that a volume is attached to."""
        return {a["InstanceId"] for a in self._volume(volume_id).get("Attachments", [])}

    @translated()
    def instances_with_address(
        self, addresses: Collection[str], vpc_id: str | None = None
    ) -> set[str]:
        """Return the instances that have one of the addresses, private or public.

        Args:
            vpc_id: the VPC that private addresses are meant in, since another VPC may have the same
                ones. None: any VPC.
        """
        found: set[str] = set()
        for name in ("private-ip-address", "ip-address"):
            if not addresses:
                break
            filters: list[FilterTypeDef] = [{"Name": name, "Values": sorted(addresses)}]
            if vpc_id is not None and name == "private-ip-address":
                filters.append({"Name": "vpc-id", "Values": [vpc_id]})
            answer = self._ec2.describe_instances(Filters=filters)
            found |= {
                instance["InstanceId"]
                for reservation in answer["Reservations"]
                for instance in reservation["Instances"]
                if instance["State"]["Name"] not in ENDED
            }
        return found

    @property
    def _ec2(self) -> "EC2Client":
        return self._clients().ec2

    def _instances(self, instance_ids: Sequence[str]) -> Iterator[Any]:
        """Yield the instances that EC2 shows. A filter does not fail for an unknown id."""
        for first in range(0, len(instance_ids), FILTER_VALUES):
            ids = instance_ids[first : first + FILTER_VALUES]
            pages = self._ec2.get_paginator("describe_instances").paginate(
                Filters=[{"Name": "instance-id", "Values": ids}]
            )
            for page in pages:
                for reservation in page["Reservations"]:
                    yield from reservation["Instances"]

    def _interface(self, interface_id: str) -> Any:
        answer = self._ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])
        return answer["NetworkInterfaces"][0]

    def _volume(self, volume_id: str) -> Any:
        return self._ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]


def attached_to(interfaces: Collection[Any]) -> set[str]:
    """Return the instances that interfaces are attached to, or `OTHER_SERVICE`."""
    attachments = [interface.get("Attachment") or {} for interface in interfaces]
    return {a.get("InstanceId") or OTHER_SERVICE for a in attachments if a}
