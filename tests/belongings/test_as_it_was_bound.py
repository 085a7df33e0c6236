"""A new primary gets each target as the former one had it: address, interface, device."""

from datetime import timedelta
from typing import Any

import pytest

from sef.errors import Refused
from smart_emergency_fallback import SmartEmergencyFallback
from tests.belongings.test_serving_one_keeps_it import add_interfaces, attach, switched
from tests.failover.cutover.cutover_targets import (
    SAME_ZONE,
    Belongings,
    cutover_of,
    fail_over,
    hooked,
    owner,
    steps_of,
)
from tests.harness import ONCE, TERMINATION, World

ENDS = [None, 100, 10]
"""Seconds that are left to the primary at a switch; None: it lives on."""


def moved(world: World, sef: SmartEmergencyFallback, primary: str, left: int | None) -> str:
    """Let the targets move; return the new primary."""
    if left is None:
        new = switched(world, sef)
    else:
        end = (world.clock() + timedelta(seconds=left)).isoformat()
        new = fail_over(world, sef, primary, termination_time=end)
    for _ in range(4):
        world.settle(sef, 2)
    return new


def bind(belongings: Belongings, private_ip: str, interface: str | None = None) -> None:
    """Associate the Elastic IP with another private address of the primary."""
    interface = interface or belongings._first_interface["NetworkInterfaceId"]
    belongings.ec2.associate_address(
        AllocationId=belongings.allocation_id,
        NetworkInterfaceId=interface,
        PrivateIpAddress=private_ip,
    )


def bound(belongings: Belongings) -> tuple[str, str]:
    """Return the instance and the private address that the Elastic IP is at."""
    address = belongings.ec2.describe_addresses(AllocationIds=[belongings.allocation_id])
    return address["Addresses"][0]["InstanceId"], address["Addresses"][0]["PrivateIpAddress"]


def interface_of(belongings: Belongings) -> Any:
    found = belongings.ec2.describe_network_interfaces(
        NetworkInterfaceIds=[belongings.interface_id]
    )
    return found["NetworkInterfaces"][0]


def secondary(belongings: Belongings, interface: str) -> str:
    """Assign another private address to an interface of the primary."""
    assigned = belongings.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=1
    )
    return str(assigned["AssignedPrivateIpAddresses"][-1]["PrivateIpAddress"])


@pytest.mark.parametrize("left", ENDS)
@ONCE
def test_elastic_ip_stays_at_its_secondary_address(world: World, left: int | None) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "private_ip")
    bind(belongings, belongings.private_ip)
    if left == 10:  # too little time to ask AWS again
        sef.register_agent("a", {"cutover": belongings.targets})
    new = moved(world, sef, primary, left)
    assert bound(belongings) == (new, belongings.private_ip)
    assert cutover_of(sef)["status"] == "done"


@pytest.mark.parametrize("left", [None, 10])
@ONCE
def test_elastic_ip_stays_at_its_interface(world: World, left: int | None) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "network_interface")
    own = interface_of(belongings)["PrivateIpAddress"]
    bind(belongings, own, belongings.interface_id)
    sef.register_agent("a", {"cutover": belongings.targets})
    asked: list[str] = []
    clients = hooked(world, "before-call.ec2.AssociateAddress", lambda **_: asked.append("asked"))
    worker = world.sef(clients=clients, spot_pools=",".join(SAME_ZONE))
    new = moved(world, worker, primary, left)
    assert bound(belongings) == (new, own)
    assert asked == [], "it moves with its interface"
    assert cutover_of(sef)["status"] == "done"


@ONCE
def test_addresses_of_an_interface_stay_there(world: World) -> None:
    """An Elastic IP at a secondary address of the interface that moves."""
    sef, primary, belongings = owner(world, "elastic_ip", "network_interface")
    own = secondary(belongings, belongings.interface_id)
    bind(belongings, own, belongings.interface_id)
    sef.register_agent("a", {"cutover": {**belongings.targets, "private_ip": own}})
    new = moved(world, sef, primary, 10)
    addresses = {a["PrivateIpAddress"] for a in interface_of(belongings)["PrivateIpAddresses"]}
    assert interface_of(belongings)["Attachment"]["InstanceId"] == new
    assert own in addresses
    assert bound(belongings) == (new, own)
    assert cutover_of(sef)["status"] == "done"


@ONCE
def test_elastic_ip_goes_to_the_same_interface_of_the_new_primary(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip")
    add_interfaces(world, primary, 1)
    [second] = [
        one
        for one in world.described(primary)["NetworkInterfaces"]
        if one["Attachment"]["DeviceIndex"] == 1
    ]
    bind(belongings, second["PrivateIpAddress"], second["NetworkInterfaceId"])
    new = switched(world, sef, lambda standby: add_interfaces(world, standby, 1))
    world.settle(sef, 2)
    [counterpart] = [
        one
        for one in world.described(new)["NetworkInterfaces"]
        if one["Attachment"]["DeviceIndex"] == 1
    ]
    assert bound(belongings) == (new, counterpart["PrivateIpAddress"])


@ONCE
def test_elastic_ip_without_its_address_stays_with_a_reason(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip")
    own = secondary(belongings, belongings._first_interface["NetworkInterfaceId"])
    bind(belongings, own)
    answer = sef.register_agent("a", {"cutover": belongings.targets})
    [warning] = answer["warnings"]
    assert "name it as private_ip too" in warning
    moved(world, sef, primary, None)
    assert bound(belongings) == (primary, own)
    assert steps_of(sef)["elastic-ip"] == "failed"
    [event] = world.events("operator_needed")
    assert f"name {own} as private_ip too" in event.message
    # The operator follows the advice.
    sef.register_agent("a", {"cutover": {**belongings.targets, "private_ip": own}})
    for _ in range(3):
        world.settle(sef, 61)
    assert bound(belongings) == (world.agent().instance_id, own)
    assert cutover_of(sef)["status"] == "done"


@ONCE
def test_elastic_ip_without_its_address_moves_under_a_deadline_and_it_is_said(
    world: World,
) -> None:
    sef, primary, belongings = owner(world, "elastic_ip")
    bind(belongings, secondary(belongings, belongings._first_interface["NetworkInterfaceId"]))
    sef.register_agent("a", {"cutover": belongings.targets})
    new = moved(world, sef, primary, 10)
    assert bound(belongings)[0] == new
    [event] = [e for e in world.events("cutover_step") if "elastic-ip" in e.message]
    assert event.severity == "warning"
    assert "name" in event.message
    assert "as private_ip too" in event.message


@ONCE
def test_binding_is_known_after_the_primary_is_dead(world: World) -> None:
    """AWS has taken both addresses from the instance and no longer shows how they were bound."""
    sef, primary, belongings = owner(world, "elastic_ip", "private_ip")
    bind(belongings, belongings.private_ip)
    sef.register_agent("a", {"cutover": belongings.targets})
    world.simulation.terminate(primary)
    world.signal(sef, TERMINATION, instance_id=primary)
    for _ in range(8):
        world.settle(sef, 5)
    assert bound(belongings) == (world.agent().instance_id, belongings.private_ip)
    assert cutover_of(sef)["status"] == "done"


@pytest.mark.parametrize(("named", "expected"), [({}, 2), ({"device_index": 2}, 2)])
@ONCE
def test_interface_gets_the_device_index_that_it_had(
    world: World, named: dict[str, int], expected: int
) -> None:
    sef, primary, belongings = owner(world, "network_interface")
    attachment = interface_of(belongings)["Attachment"]
    belongings.ec2.detach_network_interface(AttachmentId=attachment["AttachmentId"])
    belongings.ec2.attach_network_interface(
        NetworkInterfaceId=belongings.interface_id, InstanceId=primary, DeviceIndex=2
    )
    interface = {"id": belongings.interface_id, **named}
    sef.register_agent("a", {"cutover": {"network_interface": interface}})
    new = switched(world, sef)
    attachment = interface_of(belongings)["Attachment"]
    assert (attachment["InstanceId"], attachment["DeviceIndex"]) == (new, expected)


@ONCE
def test_volume_that_is_there_under_another_device_is_accepted_and_it_is_said(
    world: World,
) -> None:
    sef, _, belongings = owner(world, "volumes")
    belongings.ec2.detach_volume(VolumeId=belongings.volume_id)

    def by_hand(standby: str) -> None:
        belongings.ec2.attach_volume(
            VolumeId=belongings.volume_id, InstanceId=standby, Device="/dev/sdg"
        )

    new = switched(world, sef, by_hand)
    assert belongings.held(new) == {"volumes"}
    assert cutover_of(sef)["status"] == "done"
    [event] = [e for e in world.events("cutover_step") if "volume" in e.message]
    assert event.severity == "warning"
    assert "attached as /dev/sdg, not as /dev/sdf" in event.message


@ONCE
def test_other_name_of_its_device_is_the_same(world: World) -> None:
    sef, _, belongings = owner(world, "volumes")
    targets = {"volumes": [{"id": belongings.volume_id, "device": "/dev/xvdf"}]}
    assert sef.register_agent("a", {"cutover": targets})["warnings"] == []
    new = switched(world, sef)
    assert belongings.held(new) == {"volumes"}
    assert [e for e in world.events("cutover_step") if e.severity == "warning"] == []


@ONCE
def test_interface_that_is_there_at_another_index_is_accepted_and_it_is_said(
    world: World,
) -> None:
    sef, _, belongings = owner(world, "network_interface")
    attachment = interface_of(belongings)["Attachment"]
    belongings.ec2.detach_network_interface(AttachmentId=attachment["AttachmentId"])

    def by_hand(standby: str) -> None:
        belongings.ec2.attach_network_interface(
            NetworkInterfaceId=belongings.interface_id, InstanceId=standby, DeviceIndex=2
        )

    new = switched(world, sef, by_hand)
    assert belongings.held(new) == {"network_interface"}
    [event] = [e for e in world.events("cutover_step") if "network-interface" in e.message]
    assert event.severity == "warning"
    assert "device index is 2, not 1" in event.message


@pytest.mark.parametrize(
    ("device", "warning"),
    [("/dev/sdk1", "does not list /dev/sdk1"), ("/dev/sdg", "attached as /dev/sdf")],
)
@ONCE
def test_device_is_warned_of_at_the_registration(world: World, device: str, warning: str) -> None:
    sef, primary, belongings = owner(world, "volumes")
    targets = {"volumes": [{"id": belongings.volume_id, "device": device}]}
    [given] = sef.register_agent("a", {"cutover": targets})["warnings"]
    assert warning in given
    switched(world, sef)
    world.settle(sef, 61)
    assert (belongings.held(primary) == {"volumes"}) is (device == "/dev/sdk1")


@ONCE
def test_one_device_is_not_named_for_two_volumes(world: World) -> None:
    sef, primary, belongings = owner(world, "volumes")
    attach(world, primary, "/dev/sdg")
    [other] = [
        m["Ebs"]["VolumeId"]
        for m in world.described(primary)["BlockDeviceMappings"]
        if m["DeviceName"] == "/dev/sdg"
    ]
    volumes = [
        {"id": belongings.volume_id, "device": "/dev/sdf"},
        {"id": other, "device": "/dev/xvdf"},
    ]
    with pytest.raises(Refused, match="must not have the same device twice"):
        sef.register_agent("a", {"cutover": {"volumes": volumes}})
