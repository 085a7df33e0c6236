"""Interfaces, volumes and records move by compare-and-swap, addresses with one call."""

from collections.abc import Callable
from typing import Any

import pytest

from sef.cloud.attachments import RACED, Attachments, Impossible, NotReady, PlannedChange
from sef.cloud.clients import Clients
from sef.cloud.errors import CloudError
from sef.cloud.records import RecordChange, simple_record
from sef.cloud.traffic import TrafficRouting
from sef.simulator.client import Simulation

Plan = Callable[[str], PlannedChange | None]
"""Plans to move a resource to an instance."""


class Setup:
    """Three instances, and the resources that can move between them."""

    def __init__(self, simulation: Simulation) -> None:
        self.clients = Clients("us-east-1", simulation.endpoint, simulated=True)
        self.attachments = Attachments(lambda: self.clients)
        self.traffic = TrafficRouting(lambda: self.clients)
        self.ec2 = self.clients.ec2
        self.one, self.other, self.third = (self.launch() for _ in range(3))
        self.place = self.attachments.place(self.one)

    def launch(self, zone: str = "us-east-1a") -> str:
        answer = self.ec2.run_instances(
            LaunchTemplate={"LaunchTemplateName": "sef-default"},
            Placement={"AvailabilityZone": zone},
            MinCount=1,
            MaxCount=1,
        )
        return answer["Instances"][0]["InstanceId"]

    def plans(self) -> dict[str, Plan]:
        """Create a resource of each kind, held by no instance, and return its plan."""
        attachments = self.attachments
        address = self.ec2.allocate_address(Domain="vpc")["AllocationId"]
        made = self.ec2.create_network_interface(SubnetId=self.place.subnet_id)
        interface = made["NetworkInterface"]["NetworkInterfaceId"]
        volume = self.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
        private_ip = self.free_address()
        return {
            "address": lambda to: attachments.elastic_ip(address, to),
            "interface": lambda to: attachments.network_interface(interface, 1, to),
            "volume": lambda to: attachments.volume(volume, "/dev/sdf", to),
            "private address": lambda to: attachments.private_ip(private_ip, to),
            "record": self.record_plan(),
        }

    def free_address(self) -> str:
        """Return an address that no interface has.

        moto keeps the addresses of terminated instances, and still assigns them again.
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

    def record_plan(self) -> Plan:
        zone = self.clients.route53.create_hosted_zone(Name="x.example", CallerReference=self.one)
        zone_id = zone["HostedZone"]["Id"].rpartition("/")[2]
        addresses = {self.one: "10.0.0.1", self.other: "10.0.0.2", self.third: "10.0.0.3"}
        return lambda to: self.plan_record(zone_id, "www.x.example", addresses[to])

    def plan_record(self, zone_id: str, name: str, address: str) -> PlannedChange | None:
        current = simple_record(self.traffic.at_names(zone_id, [name])[name], name, "A")
        wanted = {**(current or {"Name": name, "Type": "A", "TTL": 30})}
        wanted |= {"ResourceRecords": [{"Value": address}]}

        def make() -> None:
            [error] = self.traffic.change(zone_id, [RecordChange(current, wanted)])
            if error is not None:
                raise error

        return None if wanted == current else PlannedChange(name, make)


@pytest.fixture
def setup(simulation: Simulation) -> Setup:
    return Setup(simulation)


def move(plan: Plan, to: str) -> None:
    for _ in range(3):
        change = plan(to)
        if change is None:
            return
        change.make()
    raise AssertionError(f"not at {to} after three changes")


KINDS = ["address", "interface", "volume", "private address", "record"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resource_is_moved_and_then_needs_no_change(setup: Setup, kind: str) -> None:
    plan = setup.plans()[kind]
    for instance in (setup.one, setup.other, setup.third, setup.one):
        move(plan, instance)
        assert plan(instance) is None


ONE_CALL = ["address", "private address"]
"""Kinds that one call takes from any holder; see docs/decisions/0045-one-call-moves.md."""


@pytest.mark.parametrize(
    ("kind", "held"),
    [(kind, held) for kind in KINDS for held in (False, True) if not (held and kind in ONE_CALL)],
)
def test_a_late_change_is_refused(setup: Setup, kind: str, held: bool) -> None:
    plan = setup.plans()[kind]
    if held:
        move(plan, setup.one)
    late = plan(setup.other)
    assert late is not None
    move(plan, setup.third)
    with pytest.raises((CloudError, NotReady)) as error:
        late.make()
    assert plan(setup.third) is None, "the newer change stays"
    if isinstance(error.value, CloudError):
        assert error.value.code in RACED | {"InvalidParameterValue"}


@pytest.mark.parametrize("kind", ONE_CALL)
def test_a_late_change_of_a_held_address_is_not_sent(setup: Setup, kind: str) -> None:
    plan = setup.plans()[kind]
    move(plan, setup.one)
    late = plan(setup.other)
    assert late is not None
    move(plan, setup.third)

    def is_late() -> None:
        raise NotReady("another cutover has begun")

    with pytest.raises(NotReady), setup.attachments.sent_only_if(is_late):
        late.make()
    assert plan(setup.third) is None, "the newer change stays"


def test_a_late_change_of_a_record_does_not_delete_a_newer_one(setup: Setup) -> None:
    """Route 53 refuses to delete a record that has changed since; plain moto deletes it."""
    plan = setup.plans()["record"]
    move(plan, setup.one)
    late = plan(setup.other)
    move(plan, setup.third)
    assert late is not None
    with pytest.raises(NotReady, match="do not match the current values"):
        late.make()


@pytest.mark.parametrize("kind", ["interface", "volume"])
def test_a_move_to_another_zone_is_impossible(setup: Setup, kind: str) -> None:
    elsewhere = setup.launch("us-east-1b")
    with pytest.raises(Impossible, match="cannot leave its zone"):
        setup.plans()[kind](elsewhere)


def test_a_move_of_a_private_address_to_another_subnet_is_impossible(setup: Setup) -> None:
    elsewhere = setup.launch("us-east-1b")
    with pytest.raises(Impossible, match="is not in subnet-"):
        setup.plans()["private address"](elsewhere)


def test_a_move_of_a_primary_address_or_a_first_interface_is_impossible(setup: Setup) -> None:
    made = setup.ec2.create_network_interface(SubnetId=setup.place.subnet_id)["NetworkInterface"]
    with pytest.raises(Impossible, match="only a secondary one can be moved"):
        setup.attachments.private_ip(made["PrivateIpAddress"], setup.other)
    with pytest.raises(Impossible, match="is the first interface of"):
        setup.attachments.network_interface(setup.place.interface_id, 1, setup.other)


def test_an_elastic_ip_goes_to_the_first_of_several_interfaces(setup: Setup) -> None:
    plans = setup.plans()
    move(plans["interface"], setup.one)
    move(plans["address"], setup.one)
    assert setup.attachments.place(setup.one).interface_id == setup.place.interface_id


def test_a_terminated_instance_releases_its_resources(setup: Setup, simulation: Simulation) -> None:
    plans = setup.plans()
    for kind in KINDS[:4]:
        move(plans[kind], setup.one)
    simulation.terminate(setup.one)
    for kind in KINDS[:4]:
        move(plans[kind], setup.other)


@pytest.mark.parametrize("policy", [{"SetIdentifier": "a", "Weight": 1}, {"AliasTarget": True}])
def test_a_record_with_a_routing_policy_or_an_alias_is_left_alone(
    setup: Setup, policy: Any
) -> None:
    zone = setup.clients.route53.create_hosted_zone(Name="y.example", CallerReference=setup.one)
    record: Any = {"Name": "www.y.example", "Type": "A", **policy}
    if "AliasTarget" in policy:
        target = {"HostedZoneId": "Z1", "DNSName": "z.example", "EvaluateTargetHealth": False}
        record["AliasTarget"] = target
    else:
        record |= {"TTL": 60, "ResourceRecords": [{"Value": "10.0.0.9"}]}
    zone_id = zone["HostedZone"]["Id"]
    setup.clients.route53.change_resource_record_sets(
        HostedZoneId=zone_id,
        ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]},
    )
    with pytest.raises(Impossible):
        setup.plan_record(zone_id.rpartition("/")[2], "www.y.example", "10.0.0.1")


def test_a_missing_resource_is_an_error(setup: Setup) -> None:
    for plan in (
        lambda: setup.attachments.elastic_ip("eipalloc-00000000", setup.one),
        lambda: setup.attachments.volume("vol-00000000", "/dev/sdf", setup.one),
        lambda: setup.attachments.network_interface("eni-00000000", 1, setup.one),
        lambda: setup.plan_record("Z1", "www.x.example", "10.0.0.1"),
    ):
        with pytest.raises(CloudError):
            plan()
    with pytest.raises(NotReady):
        setup.attachments.running("i-00000000000000000")
