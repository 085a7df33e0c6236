"""At a calm switch an instance that serves gives nothing that the new primary cannot take."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import (
    SAME_ZONE,
    Belongings,
    cutover_of,
    fail_over,
    hooked,
    owner,
    steps_of,
)
from tests.harness import ONCE, World

REFUSED = "UnauthorizedOperation"
KIND = {
    "volumes": "volume",
    "network_interface": "network-interface",
    "private_ip": "private-ip",
    "elastic_ip": "elastic-ip",
}

Obstacle = Callable[[World, Belongings, str], None]


def attach(world: World, instance_id: str, *devices: str) -> None:
    for device in devices:
        volume = world.client.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
        world.client.attach_volume(VolumeId=volume, InstanceId=instance_id, Device=device)


def add_interfaces(world: World, instance_id: str, *indices: int) -> None:
    subnet = world.described(instance_id)["SubnetId"]
    for index in indices:
        created = world.client.create_network_interface(SubnetId=subnet)["NetworkInterface"]
        world.client.attach_network_interface(
            NetworkInterfaceId=created["NetworkInterfaceId"],
            InstanceId=instance_id,
            DeviceIndex=index,
        )


def device(name: str) -> Obstacle:
    return lambda world, _, standby: attach(world, standby, name)


def many_volumes(world: World, _: Belongings, standby: str) -> None:
    names = [f"/dev/xvdb{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    attach(world, standby, *names)


def index_in_use(world: World, _: Belongings, standby: str) -> None:
    add_interfaces(world, standby, 1)


def many_interfaces(world: World, _: Belongings, standby: str) -> None:
    add_interfaces(world, standby, 2, 3)


def many_addresses(world: World, belongings: Belongings, standby: str) -> None:
    interface = belongings.interface(standby)["NetworkInterfaceId"]
    world.client.assign_private_ip_addresses(
        NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=9
    )


def other_address(world: World, belongings: Belongings, standby: str) -> None:
    other = world.client.allocate_address(Domain="vpc")["AllocationId"]
    interface = belongings.interface(standby)["NetworkInterfaceId"]
    world.client.associate_address(AllocationId=other, NetworkInterfaceId=interface)


def refused(action: str) -> Obstacle:
    return lambda world, _, standby: world.simulation.add_fault(action, error_code=REFUSED)


OBSTACLES = [
    pytest.param("volumes", device("/dev/sdf"), "/dev/sdf", id="device in use"),
    pytest.param("volumes", device("/dev/xvdf"), "/dev/xvdf", id="device in use by another name"),
    pytest.param("volumes", many_volumes, "takes no more", id="volumes"),
    pytest.param("volumes", refused("AttachVolume"), REFUSED, id="no right to attach"),
    pytest.param("network_interface", index_in_use, "device index 1", id="index in use"),
    pytest.param("network_interface", many_interfaces, "takes no more", id="interfaces"),
    pytest.param(
        "network_interface", refused("AttachNetworkInterface"), REFUSED, id="no right to attach it"
    ),
    pytest.param("private_ip", many_addresses, "takes no more", id="addresses"),
    pytest.param("private_ip", refused("AssignPrivateIpAddresses"), REFUSED, id="no right to it"),
    pytest.param("elastic_ip", other_address, "already has the Elastic IP", id="another address"),
    pytest.param("elastic_ip", refused("AssociateAddress"), REFUSED, id="no right to associate"),
]


def switched(
    world: World, sef: SmartEmergencyFallback, obstacle: Callable[[str], None] | None = None
) -> str:
    """Switch to a standby that has met an obstacle; return the new primary."""
    sef.enable_manual_replica_mode("a")
    standby = world.standby()
    assert standby is not None
    if obstacle is not None:
        obstacle(str(standby.instance_id))
    return str(sef.execute_manual_switch("a")["new_instance_id"])


@pytest.mark.parametrize(("name", "obstacle", "reason"), OBSTACLES)
@ONCE
def test_target_that_the_new_primary_cannot_take_is_never_with_nobody(
    world: World, name: str, obstacle: Obstacle, reason: str
) -> None:
    asked: list[str] = []

    def with_nobody(model: Any, params: Any, **_: Any) -> None:
        if model.name.startswith(("Detach", "Disassociate", "Unassign")):
            asked.append(model.name)

    sef, primary, belongings = owner(world, name)
    worker = world.sef(clients=counted(world, with_nobody), spot_pools=",".join(SAME_ZONE))
    new = switched(world, worker, lambda standby: obstacle(world, belongings, standby))
    world.settle(worker, 61)
    assert asked == []
    assert belongings.held(primary) == {name}
    assert world.state(primary) == "running"
    assert steps_of(sef)[KIND[name]] == "failed"
    [event] = world.events("operator_needed")
    assert reason in event.message
    assert new == world.agent().instance_id


def counted(world: World, do: Callable[..., None]) -> Any:
    clients = hooked(world, "never", lambda **_: None)
    clients.ec2.meta.events.register("before-call.ec2", do)
    return clients


@pytest.mark.parametrize("name", ["volumes", "elastic_ip"])
@ONCE
def test_under_a_deadline_nothing_is_checked_beforehand(world: World, name: str) -> None:
    rehearsed: list[str] = []

    def note(model: Any, params: Any, **_: Any) -> None:
        if "DryRun" in params["body"]:
            rehearsed.append(model.name)

    _, primary, belongings = owner(world, name)
    worker = world.sef(clients=counted(world, note), spot_pools=",".join(SAME_ZONE))
    end = (world.clock() + timedelta(seconds=20)).isoformat()
    fail_over(world, worker, primary, termination_time=end)
    assert rehearsed == []
    assert belongings.held(world.agent().instance_id) == {name}


@pytest.mark.parametrize(
    ("name", "code"),
    [("volumes", "AttachmentLimitExceeded"), ("network_interface", "OperationNotPermitted")],
)
@ONCE
def test_target_that_is_refused_although_checked_goes_back(
    world: World, name: str, code: str
) -> None:
    """AWS allows the rehearsal and refuses the call."""
    sef, primary, belongings = owner(world, name, "elastic_ip")
    action = {"volumes": "AttachVolume", "network_interface": "AttachNetworkInterface"}[name]
    attachments: list[str] = []

    def refuse_once(params: Any, **_: Any) -> None:
        if "DryRun" not in params["body"]:
            attachments.append(params["body"]["InstanceId"])
            if params["body"]["InstanceId"] != primary:
                world.simulation.add_fault(action, error_code=code, count=1)

    clients = hooked(world, "never", lambda **_: None)
    clients.ec2.meta.events.register(f"before-call.ec2.{action}", refuse_once)
    worker = world.sef(clients=clients, spot_pools=",".join(SAME_ZONE))
    new = switched(world, worker)
    assert attachments == [new, primary], "it goes back in the same pass"
    for _ in range(2):
        world.settle(worker, 61)
    assert attachments == [new, primary], "it is not taken again"
    assert belongings.held(primary) == {name, "elastic_ip"}
    assert steps_of(sef)[KIND[name]] == "failed"
    assert world.state(primary) == "running"
    [event] = world.events("operator_needed")
    assert code in event.message
    # The operator frees something at the new primary.
    clients.ec2.meta.events.unregister(f"before-call.ec2.{action}", refuse_once)
    add_interfaces(world, new, 2)
    for _ in range(3):
        world.settle(worker, 61)
    assert belongings.held(new) == {name, "elastic_ip"}
    assert cutover_of(sef)["status"] == "done"


@pytest.mark.parametrize("removed", ["all targets", "this one"])
@pytest.mark.parametrize(
    ("name", "action"),
    [("volumes", "DetachVolume"), ("network_interface", "DetachNetworkInterface")],
)
@ONCE
def test_target_that_is_removed_on_its_way_arrives(
    world: World, name: str, action: str, removed: str
) -> None:
    """The operator removes it between the two calls of its move."""
    sef, _, belongings = owner(world, name, "elastic_ip")
    address = {"elastic_ip": belongings.targets["elastic_ip"]}
    kept = None if removed == "all targets" else address

    def remove(**_: Any) -> None:
        sef.register_agent("a", {"cutover": kept})
        world.simulation.add_fault("*", error_code="RequestLimitExceeded", count=2)

    clients = hooked(world, f"after-call.ec2.{action}", remove)
    worker = world.sef(clients=clients, spot_pools=",".join(SAME_ZONE))
    new = switched(world, worker)
    for _ in range(4):
        world.settle(sef, 61)
    assert name in belongings.held(new)
    assert world.events("operator_needed") == []


@ONCE
def test_refused_target_moves_again_once_it_is_named_anew(world: World) -> None:
    _, primary, belongings = owner(world, "volumes")
    refusing: list[bool] = [True]

    def refuse(params: Any, **_: Any) -> None:
        if refusing and "DryRun" not in params["body"] and params["body"]["InstanceId"] != primary:
            world.simulation.add_fault("AttachVolume", error_code="InternalLimit", count=1)

    clients = hooked(world, "never", lambda **_: None)
    clients.ec2.meta.events.register("before-call.ec2.AttachVolume", refuse)
    worker = world.sef(clients=clients, spot_pools=",".join(SAME_ZONE))
    new = switched(world, worker)
    world.settle(worker, 61)
    assert belongings.held(primary) == {"volumes"}
    refusing.clear()
    worker.register_agent("a", {"cutover": None})
    worker.register_agent("a", {"cutover": belongings.targets})
    for _ in range(3):
        world.settle(worker, 61)
    assert belongings.held(new) == {"volumes"}


@ONCE
def test_refused_target_leaves_its_holder_once_that_one_is_announced(world: World) -> None:
    sef, primary, belongings = owner(world, "volumes")
    new = switched(world, sef, lambda standby: attach(world, standby, "/dev/sdf"))
    world.settle(sef, 61)
    assert belongings.held(primary) == {"volumes"}
    world.signal(sef, "termination-notice", instance_id=primary)
    other = next(
        m["Ebs"]["VolumeId"]
        for m in world.described(new)["BlockDeviceMappings"]
        if m["DeviceName"] == "/dev/sdf"
    )
    world.client.detach_volume(VolumeId=other)
    for _ in range(6):
        world.settle(sef, 20)
    assert belongings.held(new) == {"volumes"}


@ONCE
def test_no_target_leaves_before_all_of_them_can(world: World) -> None:
    names = ("volumes", "private_ip", "elastic_ip")
    sef, primary, belongings = owner(world, *names)
    world.simulation.add_fault("AssociateAddress", error_code=REFUSED)
    new = switched(world, sef)
    for _ in range(3):
        world.settle(sef, 61)
    assert belongings.held(primary) == set(names)
    events = world.events("operator_needed")
    assert events
    assert all(REFUSED in event.message for event in events)
    world.simulation.clear_faults()
    for _ in range(3):
        world.settle(sef, 61)
    assert belongings.held(new) == set(names)
    assert cutover_of(sef)["status"] == "done"


@ONCE
def test_address_of_another_border_group_stays(world: World) -> None:
    sef, _, _ = owner(world, "volumes")
    address = world.client.allocate_address(Domain="vpc", NetworkBorderGroup="us-east-1-bos-1")
    sef.register_agent("a", {"cutover": {"elastic_ip": address["AllocationId"]}})
    switched(world, sef)
    world.settle(sef, 61)
    assert steps_of(sef)["elastic-ip"] == "failed"
    [event] = world.events("operator_needed")
    assert "of the network border group us-east-1-bos-1" in event.message


@ONCE
def test_right_that_is_missing_for_a_check_keeps_no_target(world: World, caplog: Any) -> None:
    names = ("volumes", "network_interface", "private_ip", "elastic_ip")
    sef, _, belongings = owner(world, *names)
    sef.enable_manual_replica_mode("a")
    for action in ("DescribeInstanceTypes", "DescribeAvailabilityZones"):
        world.simulation.add_fault(action, error_code=REFUSED)
    clients = hooked(world, "never", lambda **_: None)
    worker = world.sef(clients=clients, spot_pools=",".join(SAME_ZONE))
    new = worker.execute_manual_switch("a")["new_instance_id"]
    assert belongings.held(new) == set(names)
    assert len([r for r in caplog.records if "; allow ec2:Describe" in r.getMessage()]) == 2


@ONCE
def test_refusals_of_a_standby_are_known_beforehand(world: World) -> None:
    sef, primary, belongings = owner(world)
    sef.enable_manual_replica_mode("a")
    standby = str(world.standby().instance_id)  # type: ignore[union-attr]
    targets = {"cutover": belongings.targets}

    def fields(warnings: list[str]) -> set[str]:
        return {one.partition(":")[0] for one in warnings if one.startswith("cutover.")}

    assert fields(sef.register_agent("a", targets)["warnings"]) == set()
    attach(world, standby, "/dev/xvdf")
    index_in_use(world, belongings, standby)
    many_addresses(world, belongings, standby)
    other_address(world, belongings, standby)
    expected = {
        f"cutover.{name}" for name in ("elastic_ip", "private_ip", "network_interface", "volumes")
    }
    assert fields(sef.register_agent("a", targets)["warnings"]) == expected
    assert fields(sef.execute_manual_switch("a", dry_run=True)["warnings"]) == expected
    assert belongings.held(primary) == set(belongings.targets)


SEEN_BEFOREHAND = [one for one in OBSTACLES if one.id != "no right to it"]
"""AssignPrivateIpAddresses has no DryRun."""


@pytest.mark.parametrize(("name", "obstacle", "said"), SEEN_BEFOREHAND)
@ONCE
def test_obstacle_is_named_by_the_dry_run(
    world: World, name: str, obstacle: Obstacle, said: str
) -> None:
    sef, _, belongings = owner(world, name)
    sef.enable_manual_replica_mode("a")
    obstacle(world, belongings, str(world.standby().instance_id))  # type: ignore[union-attr]
    warnings = sef.execute_manual_switch("a", dry_run=True)["warnings"]
    said = said.replace("xvdf", "sdf")  # the name of the device in the target
    assert any(one.startswith(f"cutover.{name}: ") and said in one for one in warnings), warnings
