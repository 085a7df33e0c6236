"""Changes that AWS refuses and plain moto makes, or refuses with another error."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sef.cloud.clients import Clients
from sef.simulator.client import Simulation
from tests.simulator.ec2_calls import launch

ERRORS = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"
ROUTE53 = (
    "https://docs.aws.amazon.com/Route53/latest/APIReference/API_ChangeResourceRecordSets.html"
)


@dataclass
class Resources:
    """Two instances in one zone, and resources that the first one holds."""

    clients: Clients
    simulation: Simulation

    @property
    def ec2(self) -> Any:
        return self.clients.ec2

    @cached_property
    def holder(self) -> str:
        return launch(self.ec2)

    @cached_property
    def other(self) -> str:
        return launch(self.ec2)

    @cached_property
    def subnet(self) -> str:
        answer = self.ec2.describe_instances(InstanceIds=[self.holder])
        subnet: str = answer["Reservations"][0]["Instances"][0]["SubnetId"]
        return subnet

    def new_volume(self) -> str:
        volume: str = self.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
        return volume

    def attach_volume(self, volume: str, instance: str, device: str = "/dev/sdf") -> None:
        self.ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device=device)

    @cached_property
    def held_volume(self) -> str:
        volume = self.new_volume()
        self.attach_volume(volume, self.holder)
        return volume

    @cached_property
    def address(self) -> str:
        allocation: str = self.ec2.allocate_address(Domain="vpc")["AllocationId"]
        return allocation

    def associate(self, allocation: str, instance: str, **more: Any) -> None:
        [interface] = self.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0][
            "Instances"
        ][0]["NetworkInterfaces"]
        self.ec2.associate_address(
            AllocationId=allocation, NetworkInterfaceId=interface["NetworkInterfaceId"], **more
        )

    def new_interface(self) -> Any:
        return self.ec2.create_network_interface(SubnetId=self.subnet)["NetworkInterface"]

    def attach_interface(self, interface: str, instance: str) -> None:
        self.ec2.attach_network_interface(
            NetworkInterfaceId=interface, InstanceId=instance, DeviceIndex=1
        )

    @cached_property
    def held_interface(self) -> str:
        interface: str = self.new_interface()["NetworkInterfaceId"]
        self.attach_interface(interface, self.holder)
        return interface

    @cached_property
    def zone(self) -> str:
        """A hosted zone in which www.x.example is 10.0.0.2, and was 10.0.0.1 before."""
        zone = self.clients.route53.create_hosted_zone(Name="x.example", CallerReference="x")
        zone_id: str = zone["HostedZone"]["Id"]
        self.change_record(zone_id, "CREATE", "10.0.0.1")
        self.change_record(zone_id, "UPSERT", "10.0.0.2")
        return zone_id

    def change_record(self, zone: str, action: Any, value: str, name: str = "www") -> None:
        record: Any = {
            "Name": f"{name}.x.example",
            "Type": "A",
            "TTL": 60,
            "ResourceRecords": [{"Value": value}],
        }
        self.clients.route53.change_resource_record_sets(
            HostedZoneId=zone,
            ChangeBatch={"Changes": [{"Action": action, "ResourceRecordSet": record}]},
        )


@pytest.fixture
def resources(simulation: Simulation) -> Iterator[Resources]:
    yield Resources(Clients("us-east-1", simulation.endpoint, simulated=True), simulation)
    simulation.set_options(pending_seconds=0)


def attach_to_pending(r: Resources) -> None:
    r.simulation.set_options(pending_seconds=600)
    r.attach_volume(r.new_volume(), r.holder)


def attach_at_used_device(r: Resources) -> None:
    r.attach_volume(r.held_volume and r.new_volume(), r.holder)


def attach_at_used_index(r: Resources) -> None:
    r.attach_interface(r.held_interface and r.new_interface()["NetworkInterfaceId"], r.holder)


def assign_held_address(r: Resources) -> None:
    held, other = r.new_interface(), r.new_interface()
    r.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=other["NetworkInterfaceId"],
        PrivateIpAddresses=[held["PrivateIpAddress"]],
        AllowReassignment=False,
    )


def unassign_another_address(r: Resources) -> None:
    r.ec2.unassign_private_ip_addresses(
        NetworkInterfaceId=r.new_interface()["NetworkInterfaceId"],
        PrivateIpAddresses=[r.new_interface()["PrivateIpAddress"]],
    )


def attach_at_used_device_by_its_other_name(r: Resources) -> None:
    r.attach_volume(r.held_volume and r.new_volume(), r.holder, "/dev/xvdf")


def attach_a_volume_too_many(r: Resources) -> None:
    for first in "bc":
        for second in "abcdefghijklmn":
            r.attach_volume(r.new_volume(), r.holder, f"/dev/xvd{first}{second}")


def attach_an_interface_too_many(r: Resources) -> None:
    for index in range(1, 4):
        r.ec2.attach_network_interface(
            NetworkInterfaceId=r.new_interface()["NetworkInterfaceId"],
            InstanceId=r.holder,
            DeviceIndex=index,
        )


def assign_an_address_too_many(r: Resources) -> None:
    r.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=r.held_interface, SecondaryPrivateIpAddressCount=10
    )


def associate_held_address(r: Resources) -> None:
    for instance in (r.holder, r.other):
        r.associate(r.address, instance, AllowReassociation=False)


CHECKS: dict[str, tuple[str, str, Callable[[Resources], object]]] = {
    "attach a volume that another instance holds": (
        "VolumeInUse",
        ERRORS,
        lambda r: r.attach_volume(r.held_volume, r.other),
    ),
    "attach a volume in another zone": (
        "InvalidVolume.ZoneMismatch",
        ERRORS,
        lambda r: r.attach_volume(r.new_volume(), launch(r.ec2, "m5.large.us-east-1b")),
    ),
    "attach a volume to a pending instance": ("IncorrectState", ERRORS, attach_to_pending),
    "attach a volume at a used device": ("InvalidParameterValue", ERRORS, attach_at_used_device),
    "attach a volume at a used device by its other name": (
        "InvalidParameterValue",
        "not verified; https://github.com/joeduffy/blocker/pull/1",
        attach_at_used_device_by_its_other_name,
    ),
    "attach a volume at a device that is not listed": (
        "InvalidParameterValue",
        "https://github.com/base2genomics/batchit/issues/15",
        lambda r: r.attach_volume(r.new_volume(), r.holder, "/dev/sdk1"),
    ),
    "attach a volume too many": (
        "AttachmentLimitExceeded",
        "https://github.com/kubernetes-sigs/aws-ebs-csi-driver/pull/2500",
        attach_a_volume_too_many,
    ),
    "attach an interface too many": (
        "AttachmentLimitExceeded",
        "https://github.com/cilium/cilium/issues/15877",
        attach_an_interface_too_many,
    ),
    "assign an address too many": (
        "PrivateIpAddressLimitExceeded",
        "https://github.com/aws/amazon-vpc-cni-k8s/issues/989",
        assign_an_address_too_many,
    ),
    "associate an address that another instance has": (
        "Resource.AlreadyAssociated",
        "https://github.com/ansible/ansible/issues/27385",
        associate_held_address,
    ),
    "associate an address with one that the interface does not have": (
        "InvalidParameterValue",
        "not verified",
        lambda r: r.associate(r.address, r.holder, PrivateIpAddress="192.0.2.1"),
    ),
    "associate an address of another border group": (
        "InvalidParameterValue",
        "not verified; https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssociateAddress.html",
        lambda r: r.associate(
            r.ec2.allocate_address(Domain="vpc", NetworkBorderGroup="us-east-1-bos-1")[
                "AllocationId"
            ],
            r.holder,
        ),
    ),
    "rehearse a call": (
        "DryRunOperation",
        "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonParameters.html",
        lambda r: r.ec2.associate_address(AllocationId=r.address, InstanceId=r.holder, DryRun=True),
    ),
    "detach a volume that is not attached": (
        "IncorrectState",
        ERRORS,
        lambda r: r.ec2.detach_volume(VolumeId=r.new_volume()),
    ),
    "detach a volume from an instance that does not hold it": (
        "InvalidAttachment.NotFound",
        ERRORS,
        lambda r: r.ec2.detach_volume(VolumeId=r.held_volume, InstanceId=r.other),
    ),
    "attach an interface that another instance holds": (
        "InvalidNetworkInterface.InUse",
        ERRORS,
        lambda r: r.attach_interface(r.held_interface, r.other),
    ),
    "attach an interface at a used index": ("InvalidParameterValue", ERRORS, attach_at_used_index),
    "assign an address that another interface has": (
        "InvalidParameterValue",
        ERRORS,
        assign_held_address,
    ),
    "unassign an address that the interface does not have": (
        "InvalidParameterValue",
        ERRORS,
        unassign_another_address,
    ),
    "create a record that exists": (
        "InvalidChangeBatch",
        ROUTE53,
        lambda r: r.change_record(r.zone, "CREATE", "10.0.0.3"),
    ),
    "delete a record that does not exist": (
        "InvalidChangeBatch",
        ROUTE53,
        lambda r: r.change_record(r.zone, "DELETE", "10.0.0.2", name="ftp"),
    ),
    "delete a record with an earlier value": (
        "InvalidChangeBatch",
        ROUTE53,
        lambda r: r.change_record(r.zone, "DELETE", "10.0.0.1"),
    ),
}
"""The change, the error code of AWS, the source of the code, and the call."""


@pytest.mark.parametrize(
    ("code", "call"),
    [pytest.param(code, call, id=change) for change, (code, _, call) in CHECKS.items()],
)
def test_a_change_that_aws_refuses_is_refused(
    resources: Resources, code: str, call: Callable[[Resources], object]
) -> None:
    with pytest.raises(ClientError) as caught:
        call(resources)
    assert caught.value.response["Error"]["Code"] == code


ASSIGN = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssignPrivateIpAddresses.html"
ASSOCIATE = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssociateAddress.html"


def held(r: Resources, allocation: str) -> tuple[str | None, str | None]:
    """Return the instance and the private address that an Elastic IP is at."""
    address = r.ec2.describe_addresses(AllocationIds=[allocation])["Addresses"][0]
    return address.get("InstanceId") or None, address.get("PrivateIpAddress")


def test_an_elastic_ip_moves_with_one_call_and_displaces_another(resources: Resources) -> None:
    """The source is in ASSOCIATE."""
    other = resources.ec2.allocate_address(Domain="vpc")["AllocationId"]
    resources.associate(resources.address, resources.holder)
    resources.associate(other, resources.other)
    resources.associate(resources.address, resources.other)
    assert held(resources, resources.address)[0] == resources.other
    assert held(resources, other) == (None, None)


def test_an_elastic_ip_moves_with_its_private_address_and_its_interface(
    resources: Resources,
) -> None:
    """The source is in ASSIGN."""
    ec2, first, second = resources.ec2, resources.held_interface, resources.new_interface()
    answer = ec2.assign_private_ip_addresses(
        NetworkInterfaceId=first, SecondaryPrivateIpAddressCount=1
    )
    private_ip = answer["AssignedPrivateIpAddresses"][-1]["PrivateIpAddress"]
    ec2.associate_address(
        AllocationId=resources.address, NetworkInterfaceId=first, PrivateIpAddress=private_ip
    )
    assert held(resources, resources.address) == (resources.holder, private_ip)
    resources.attach_interface(second["NetworkInterfaceId"], resources.other)
    ec2.assign_private_ip_addresses(
        NetworkInterfaceId=second["NetworkInterfaceId"],
        PrivateIpAddresses=[private_ip],
        AllowReassignment=True,
    )
    assert held(resources, resources.address) == (resources.other, private_ip)
    interface = ec2.describe_network_interfaces(NetworkInterfaceIds=[first])
    assert len(interface["NetworkInterfaces"][0]["PrivateIpAddresses"]) == 1
    second = ec2.describe_network_interfaces(NetworkInterfaceIds=[second["NetworkInterfaceId"]])
    ec2.detach_network_interface(
        AttachmentId=second["NetworkInterfaces"][0]["Attachment"]["AttachmentId"]
    )
    assert held(resources, resources.address) == (None, private_ip)
