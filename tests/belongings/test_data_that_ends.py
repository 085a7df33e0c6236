"""Data of the service does not die with the instance that it is at."""

from collections.abc import Callable
from typing import Any

import pytest

from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, MANAGED_TAG
from sef.terms import LaunchAway
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import Belongings, cutover_of, fail_over, owner
from tests.harness import ALIVE, ONCE, OTHERS, POOL, World, clients_of

REFUSED = "UnauthorizedOperation"
DATA = "/dev/sdf"
MODIFIES = ("ModifyInstanceAttribute", "ModifyNetworkInterfaceAttribute")

pytestmark = ONCE


class Data:
    """A volume and an interface that EC2 deletes with the instance that they were made for."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ec2 = clients_of(world.simulation.endpoint).ec2

    def launch(self) -> str:
        """Launch an instance with a data volume, as the command line does."""
        self.primary = self.world.launch(
            BlockDeviceMappings=[
                {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8}},
                {"DeviceName": DATA, "Ebs": {"VolumeSize": 1}},
            ]
        )
        mappings = self.world.described(self.primary)["BlockDeviceMappings"]
        [self.volume] = [m["Ebs"]["VolumeId"] for m in mappings if m["DeviceName"] == DATA]
        first = self.world.described(self.primary)["NetworkInterfaces"][0]
        created = self.ec2.create_network_interface(SubnetId=first["SubnetId"])
        self.interface = created["NetworkInterface"]["NetworkInterfaceId"]
        self.ec2.attach_network_interface(
            NetworkInterfaceId=self.interface, InstanceId=self.primary, DeviceIndex=1
        )
        self.endanger()
        return self.primary

    def endanger(self) -> None:
        """Let EC2 delete both with the instance, as a launch does."""
        self.ec2.modify_instance_attribute(
            InstanceId=self.primary,
            BlockDeviceMappings=[{"DeviceName": DATA, "Ebs": {"DeleteOnTermination": True}}],
        )
        [interface] = self.ec2.describe_network_interfaces(NetworkInterfaceIds=[self.interface])[
            "NetworkInterfaces"
        ]
        self.ec2.modify_network_interface_attribute(
            NetworkInterfaceId=self.interface,
            Attachment={
                "AttachmentId": interface["Attachment"]["AttachmentId"],
                "DeleteOnTermination": True,
            },
        )

    @property
    def targets(self) -> dict[str, Any]:
        return {
            "volumes": [{"id": self.volume, "device": DATA}],
            "network_interface": {"id": self.interface},
        }

    def flags(self) -> list[bool]:
        """Return DeleteOnTermination of the volume and of the interface."""
        [volume] = self.ec2.describe_volumes(VolumeIds=[self.volume])["Volumes"]
        [interface] = self.ec2.describe_network_interfaces(NetworkInterfaceIds=[self.interface])[
            "NetworkInterfaces"
        ]
        return [
            volume["Attachments"][0]["DeleteOnTermination"],
            interface["Attachment"]["DeleteOnTermination"],
        ]

    def left(self) -> list[str]:
        """Return which of the two still exist."""
        volumes = self.ec2.describe_volumes(
            Filters=[{"Name": "volume-id", "Values": [self.volume]}]
        )["Volumes"]
        interfaces = self.ec2.describe_network_interfaces(
            Filters=[{"Name": "network-interface-id", "Values": [self.interface]}]
        )["NetworkInterfaces"]
        return ["volume"] * len(volumes) + ["interface"] * len(interfaces)


def named_at_put(sef: SmartEmergencyFallback, data: Data) -> None:
    sef.register_agent("a", {"instance_id": data.primary, "cutover": data.targets})


def named_before_the_primary(sef: SmartEmergencyFallback, data: Data) -> None:
    sef.register_agent("a", {"cutover": data.targets})
    assert data.flags() == [True, True], "the instance may be that of another service"
    sef.register_agent("a", {"instance_id": data.primary})


def primary_learnt_from_a_report(sef: SmartEmergencyFallback, data: Data) -> None:
    sef.register_agent("a", {"cutover": data.targets})
    at = data.world.clock().isoformat()
    report = {"spot_price": 0.03, "pool_id": POOL, "timestamp": at, "instance_id": data.primary}
    assert sef.process_incoming_data("a", "pricing", report)["status"] != "rejected"
    data.world.settle(sef)


def set_again_an_hour_ago(sef: SmartEmergencyFallback, data: Data) -> None:
    named_at_put(sef, data)
    data.endanger()
    data.world.settle(sef, 3601)


def ec2_away_at_put(sef: SmartEmergencyFallback, data: Data) -> None:
    for action in ("DescribeVolumes", "DescribeNetworkInterfaces"):
        data.world.simulation.throttle(action)
    answer = sef.register_agent("a", {"instance_id": data.primary, "cutover": data.targets})
    assert any("DeleteOnTermination" in warning for warning in answer["warnings"])
    data.world.simulation.clear_faults()
    data.world.settle(sef, 61)


WAYS = [
    named_at_put,
    named_before_the_primary,
    primary_learnt_from_a_report,
    set_again_an_hour_ago,
    ec2_away_at_put,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_target_survives_the_primary(
    world: World, way: Callable[[SmartEmergencyFallback, Data], None]
) -> None:
    data = Data(world)
    data.launch()
    sef = world.sef()
    way(sef, data)
    assert data.flags() == [False, False]
    assert world.events("target_kept")
    world.simulation.terminate(data.primary)
    assert data.left() == ["volume", "interface"]


def test_target_at_the_instance_of_another_service_is_left_as_it_is(world: World) -> None:
    data = Data(world)
    data.launch()
    sef = world.sef()
    world.primary(sef)
    sef.register_agent("a", {"cutover": data.targets})
    world.settle(sef, 3601)
    assert data.flags() == [True, True]


@pytest.mark.parametrize("actions", [MODIFIES, ("DescribeVolumes", "DescribeNetworkInterfaces")])
def test_missing_rights_are_told_once(world: World, actions: tuple[str, ...]) -> None:
    data = Data(world)
    data.launch()
    sef = world.sef()
    for action in actions:
        world.simulation.add_fault(action, error_code=REFUSED)
    answer = sef.register_agent("a", {"instance_id": data.primary, "cutover": data.targets})
    assert sum(REFUSED in warning for warning in answer["warnings"]) >= 2
    told = len(world.events("target_at_risk"))
    for _ in range(3):
        world.settle(sef, 3601)
    assert len(world.events("target_at_risk")) == told
    world.simulation.clear_faults()
    world.settle(sef, 3601)
    assert data.flags() == [False, False]


def switched_away(world: World, data: Data, pools: list[str]) -> SmartEmergencyFallback:
    """Switch by hand to a zone where the data cannot follow, while AWS refuses to keep it."""
    sef = world.sef(spot_pools=",".join(pools), launch_away_from_targets=LaunchAway.ALWAYS)
    for action in MODIFIES:
        world.simulation.add_fault(action, error_code=REFUSED)
    sef.register_agent(
        "a",
        {
            "instance_id": data.primary,
            "pool_id": POOL,
            "cutover": data.targets,
        },
    )
    sef.enable_manual_replica_mode("a")
    sef.execute_manual_switch("a")
    world.settle(sef, 600)
    return sef


def reason_of(sef: SmartEmergencyFallback, instance_id: str) -> str:
    [former] = [
        one
        for one in sef.get_agent_status("a")["former_primaries"]
        if one["instance_id"] == instance_id
    ]
    return str(former["reason"])


def test_holder_of_a_target_that_was_given_up_ends_only_when_it_is_named(world: World) -> None:
    data = Data(world)
    data.launch()
    sef = switched_away(world, data, OTHERS)
    assert cutover_of(sef)["status"] == "needs_operator"
    sef.register_agent("a", {"cutover": None})
    for _ in range(3):
        world.settle(sef, 600)
    assert cutover_of(sef)["status"] == "done"
    assert world.state(data.primary) == "running"
    reason = reason_of(sef, data.primary)
    assert f"{data.volume}, once a target of a, would be deleted with it" in reason
    assert f"--instance {data.primary} --as surplus" in reason
    left = [e for e in world.events("primary_retired") if "is left running" in e.message]
    assert len(left) == 1
    sef.adopt_instance("a", data.primary, "surplus")
    assert world.state(data.primary) not in ALIVE
    assert [event.details["instance_id"] for event in world.events("end_ordered")] == [data.primary]


def test_holder_ends_once_its_data_survives_it(world: World) -> None:
    data = Data(world)
    data.launch()
    sef = switched_away(world, data, OTHERS)
    sef.register_agent("a", {"cutover": None})
    world.settle(sef, 600)
    assert world.state(data.primary) == "running"
    world.simulation.clear_faults()
    ends = sef._context.ends
    ends.keep_volumes(data.primary, {DATA: data.volume})
    [interface] = ends.interfaces([data.interface])
    ends.keep_interface(data.interface, interface.handle)
    world.settle(sef, 600)
    assert world.state(data.primary) not in ALIVE
    assert data.left() == ["volume", "interface"]


def test_target_of_another_agent_keeps_its_holder(world: World) -> None:
    data = Data(world)
    data.launch()
    sef = world.sef()
    sef.register_agent("b", {"cutover": data.targets})
    sef.register_agent("a", {"instance_id": data.primary, "pool_id": POOL})
    sef.enable_manual_replica_mode("a")
    sef.execute_manual_switch("a")
    world.settle(sef, 600)
    assert world.state(data.primary) == "running"
    assert "a target of b" in reason_of(sef, data.primary)
    sef.register_agent("b", {"cutover": None})
    world.settle(sef, 600)
    assert world.state(data.primary) == "running", "it would be deleted"


def test_former_primary_that_serves_again_is_not_ended_by_an_old_order(world: World) -> None:
    sef, primary, _ = owner(
        world, "volumes", pools=OTHERS, launch_away_from_targets=LaunchAway.ALWAYS
    )
    sef.enable_manual_replica_mode("a")
    sef.execute_manual_switch("a")
    world.settle(sef, 60)
    world.simulation.add_fault("TerminateInstances", error_code=REFUSED)
    sef.adopt_instance("a", primary, "surplus")
    sef.register_agent("a", {"instance_id": primary})
    world.simulation.clear_faults()
    sef.execute_manual_switch("a")
    for _ in range(3):
        world.settle(sef, 600)
    assert world.state(primary) == "running"
    assert reason_of(sef, primary) == "the cutover from it is not finished"


@pytest.mark.parametrize("names", [("volumes",), ("elastic_ip",), ("target_groups",)])
def test_released_standby_with_a_target_is_kept(world: World, names: tuple[str, ...]) -> None:
    sef, _, belongings = owner(world, *names)
    sef.enable_manual_replica_mode("a")
    standby = str(world.standby().instance_id)  # type: ignore[union-attr]
    moved_by_hand(belongings, standby)
    assert belongings.held(standby) == set(names)
    sef.disable_manual_replica_mode("a")
    for _ in range(3):
        world.settle(sef, 600)
    assert world.state(standby) == "running"
    assert len(world.events("standby_kept")) == 1
    assert "1 target" in reason_of(sef, standby) or "a target of a" in reason_of(sef, standby)
    sef.adopt_instance("a", standby, "surplus")
    assert world.state(standby) not in ALIVE
    assert [r.status for r in world.replicas()] == ["terminated"]


def moved_by_hand(belongings: Belongings, instance_id: str) -> None:
    ec2, interface = belongings.ec2, belongings.interface(instance_id)
    if "volumes" in belongings.targets:
        ec2.detach_volume(VolumeId=belongings.volume_id)
        ec2.attach_volume(VolumeId=belongings.volume_id, InstanceId=instance_id, Device=DATA)
    if "elastic_ip" in belongings.targets:
        ec2.associate_address(
            AllocationId=belongings.allocation_id,
            NetworkInterfaceId=interface["NetworkInterfaceId"],
            AllowReassociation=True,
        )
    if "target_groups" in belongings.targets:
        belongings.elbv2.register_targets(
            TargetGroupArn=belongings.arn, Targets=[{"Id": instance_id}]
        )
    if "dns" in belongings.targets:
        belongings.write_record(interface["PrivateIpAddress"])


def test_orphan_with_a_target_is_kept(world: World) -> None:
    sef, primary, belongings = owner(world, "volumes")
    sef.sweep_orphans()
    [name] = [row.name for row in world.rows("deployment", None)]
    tags = {MANAGED_TAG: name, AGENT_TAG: "a", ATTEMPT_TAG: "by-hand"}
    orphan = world.launch(
        TagSpecifications=[
            {
                "ResourceType": "instance",
                "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            }
        ]
    )
    world.simulation.age(orphan, 3600)
    moved_by_hand(belongings, orphan)
    sef.sweep_orphans()
    assert world.state(orphan) == "running"
    [kept] = sef.get_agent_status("a")["orphans"]
    assert belongings.volume_id in kept["reason"]
    belongings.ec2.detach_volume(VolumeId=belongings.volume_id)
    sef.sweep_orphans()
    assert world.state(orphan) not in ALIVE
    assert world.state(primary) == "running"


def test_data_whose_flag_was_never_cleared_is_kept_in_an_emergency(world: World) -> None:
    """The notice is the first that SEF hears of the primary."""
    data = Data(world)
    data.launch()
    sef = world.sef(spot_pools=",".join(OTHERS))
    sef.register_agent("a", {"cutover": data.targets, "pool_id": POOL})
    fail_over(world, sef, data.primary)
    assert data.flags() == [False, False]
    world.simulation.terminate(data.primary)
    assert data.left() == ["volume", "interface"]
