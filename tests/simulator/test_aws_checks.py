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
