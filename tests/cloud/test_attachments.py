"""What was seen is moved only while it is as it was seen."""

from collections.abc import Callable
from typing import Any

import pytest

from sef.cloud.attachments import RACED, Attachments, Impossible, NotReady, PlannedChange
from sef.cloud.clients import Clients
from sef.cloud.errors import CloudError
from sef.cloud.traffic import TrafficRouting
from sef.simulator.client import Simulation

Look = Callable[[str], PlannedChange | None]


class Stage:
    def __init__(self, simulation: Simulation) -> None:
        self.clients = Clients("us-east-1", simulation.endpoint, simulated=True)
        self.moves, self.traffic = (
            Attachments(lambda: self.clients),
            TrafficRouting(lambda: self.clients),
        )
        self.ec2 = self.clients.ec2
        self.one, self.other, self.third = (self.launch() for _ in range(3))
        self.place = self.moves.place(self.one)

    def launch(self, zone: str = "us-east-1a") -> str:
        answer = self.ec2.run_instances(
            LaunchTemplate={"LaunchTemplateName": "sef-default"},
            Placement={"AvailabilityZone": zone},
            MinCount=1,
            MaxCount=1,
        )
        return answer["Instances"][0]["InstanceId"]

    def looks(self) -> dict[str, Look]:
        """One of each thing, nobody's yet, and how to look for a way to an instance."""
        moves = self.moves
        address = self.ec2.allocate_address(Domain="vpc")["AllocationId"]
        made = self.ec2.create_network_interface(SubnetId=self.place.subnet_id)
        interface = made["NetworkInterface"]["NetworkInterfaceId"]
        volume = self.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
        private_ip = self.free_address()
        return {
            "address": lambda to: moves.elastic_ip(address, to),
            "interface": lambda to: moves.network_interface(interface, 1, to),
            "volume": lambda to: moves.volume(volume, "/dev/sdf", to),
            "private address": lambda to: moves.private_ip(private_ip, to),
            "record": self.record_look(),
        }

    def free_address(self) -> str:
        """Return an address that no interface has.

        moto keeps the addresses of terminated instances, and yet assigns them again.
        """
        while True:
            made = self.ec2.create_network_interface(SubnetId=self.place.subnet_id)
            interface = made["NetworkInterface"]
            address: str = interface["PrivateIpAddress"]
            by_address = {"Name": "addresses.private-ip-address", "Values": [address]}
            found = self.ec2.describe_network_interfaces(Filters=[by_address])["NetworkInterfaces"]
            if len(found) == 1:
                break
        self.ec2.delete_network_interface(NetworkInterfaceId=interface["NetworkInterfaceId"])
        return address

    def record_look(self) -> Look:
        zone = self.clients.route53.create_hosted_zone(Name="x.example", CallerReference=self.one)
        zone_id = zone["HostedZone"]["Id"].rpartition("/")[2]
        addresses = {self.one: "10.0.0.1", self.other: "10.0.0.2", self.third: "10.0.0.3"}
        return lambda to: self.traffic.record(zone_id, "www.x.example", "A", addresses[to], 30)


@pytest.fixture
def stage(simulation: Simulation) -> Stage:
    return Stage(simulation)


def move(look: Look, to: str) -> None:
    for _ in range(3):
        found = look(to)
        if found is None:
            return
        found.make()
    raise AssertionError("it does not arrive")


KINDS = ["address", "interface", "volume", "private address", "record"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resource_is_moved_and_then_needs_no_change(stage: Stage, kind: str) -> None:
    look = stage.looks()[kind]
    for instance in (stage.one, stage.other, stage.third, stage.one):
        move(look, instance)
        assert look(instance) is None


@pytest.mark.parametrize("held", [False, True], ids=["nobody's", "somebody's"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_late_change_is_refused(stage: Stage, kind: str, held: bool) -> None:
    look = stage.looks()[kind]
    if held:
        move(look, stage.one)
    late = look(stage.other)
    assert late is not None
    move(look, stage.third)
    with pytest.raises(CloudError) as error:
        late.make()
    assert look(stage.third) is None, "it stays where it is"
    assert error.value.code in RACED | {"InvalidParameterValue"}


def test_a_late_change_of_a_record_does_not_delete_a_newer_one(stage: Stage) -> None:
    """A record that was changed since is not deleted; only moto would delete it."""
    look = stage.looks()["record"]
    move(look, stage.one)
    late = look(stage.other)
    move(look, stage.third)
    assert late is not None
    with pytest.raises(CloudError, match="do not match the current values"):
        late.make()


@pytest.mark.parametrize("kind", ["interface", "volume"])
def test_a_move_to_another_zone_is_impossible(stage: Stage, kind: str) -> None:
    elsewhere = stage.launch("us-east-1b")
    with pytest.raises(Impossible, match="cannot leave its zone"):
        stage.looks()[kind](elsewhere)


def test_a_move_of_a_private_address_to_another_subnet_is_impossible(stage: Stage) -> None:
    elsewhere = stage.launch("us-east-1b")
    with pytest.raises(Impossible, match="is not in subnet-"):
        stage.looks()["private address"](elsewhere)


def test_a_move_of_a_primary_address_or_a_first_interface_is_impossible(stage: Stage) -> None:
    made = stage.ec2.create_network_interface(SubnetId=stage.place.subnet_id)["NetworkInterface"]
    with pytest.raises(Impossible, match="only a secondary one can be moved"):
        stage.moves.private_ip(made["PrivateIpAddress"], stage.other)
    with pytest.raises(Impossible, match="is the first interface of"):
        stage.moves.network_interface(stage.place.interface_id, 1, stage.other)


def test_an_elastic_ip_goes_to_the_first_of_several_interfaces(stage: Stage) -> None:
    looks = stage.looks()
    move(looks["interface"], stage.one)
    move(looks["address"], stage.one)
    assert stage.moves.place(stage.one).interface_id == stage.place.interface_id


def test_a_terminated_instance_releases_its_resources(stage: Stage, simulation: Simulation) -> None:
    looks = stage.looks()
    for kind in KINDS[:4]:
        move(looks[kind], stage.one)
    simulation.terminate(stage.one)
    for kind in KINDS[:4]:
        move(looks[kind], stage.other)


@pytest.mark.parametrize("policy", [{"SetIdentifier": "a", "Weight": 1}, {"AliasTarget": True}])
def test_a_record_with_a_routing_policy_or_an_alias_is_left_alone(
    stage: Stage, policy: Any
) -> None:
    zone = stage.clients.route53.create_hosted_zone(Name="y.example", CallerReference=stage.one)
    record: Any = {"Name": "www.y.example", "Type": "A", **policy}
    if "AliasTarget" in policy:
        target = {"HostedZoneId": "Z1", "DNSName": "z.example", "EvaluateTargetHealth": False}
        record["AliasTarget"] = target
    else:
        record |= {"TTL": 60, "ResourceRecords": [{"Value": "10.0.0.9"}]}
    zone_id = zone["HostedZone"]["Id"]
    stage.clients.route53.change_resource_record_sets(
        HostedZoneId=zone_id,
        ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]},
    )
    with pytest.raises(Impossible):
        stage.traffic.record(zone_id.rpartition("/")[2], "www.y.example", "A", "10.0.0.1", None)


def test_a_missing_resource_is_an_error(stage: Stage) -> None:
    for look in (
        lambda: stage.moves.elastic_ip("eipalloc-00000000", stage.one),
        lambda: stage.moves.volume("vol-00000000", "/dev/sdf", stage.one),
        lambda: stage.moves.network_interface("eni-00000000", 1, stage.one),
        lambda: stage.traffic.record("Z1", "www.x.example", "A", "10.0.0.1", None),
    ):
        with pytest.raises(CloudError):
            look()
    with pytest.raises(NotReady):
        stage.moves.running("i-00000000000000000")
