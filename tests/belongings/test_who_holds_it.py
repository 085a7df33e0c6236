"""A target belongs to one agent, and is taken from nobody else."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import delete

from sef.db import tables
from sef.errors import Conflict
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import (
    ALL,
    SAME_ZONE,
    Belongings,
    fail_over,
    owner,
)
from tests.harness import ON_MARIADB, TERMINATION, World

CLAIMED = sorted(ALL - {"target_groups"})


def put(sef: SmartEmergencyFallback, agent_id: str, **targets: Any) -> Any:
    return sef.register_agent(agent_id, {"cutover": targets or None})


# A target belongs to one agent


@pytest.mark.parametrize("name", CLAIMED)
@ON_MARIADB
def test_second_agent_that_names_a_target_is_refused(world: World, name: str) -> None:
    sef, _, belongings = owner(world, name)
    world.primary(sef, "b")
    with pytest.raises(Conflict) as refused:
        put(sef, "b", **belongings.targets)
    assert (refused.value.status, refused.value.reason) == (409, "target_of_other_agent")
    assert f"cutover.{name}: " in refused.value.message
    assert "is a target of a, and a target belongs to one agent" in refused.value.message
    assert world.agent("b").cutover is None
    put(sef, "a", **belongings.targets)


@ON_MARIADB
def test_new_agent_that_names_a_target_of_another_is_not_registered(world: World) -> None:
    sef, _, belongings = owner(world, "volumes", "elastic_ip")
    with pytest.raises(Conflict):
        put(sef, "b", volumes=[{"id": belongings.volume_id, "device": "/dev/sdg"}])
    assert world.rows("agents", "b") == []


@ON_MARIADB
def test_record_is_the_same_target_in_every_spelling(world: World) -> None:
    sef, _, belongings = owner(world, "dns")
    dns = {**belongings.targets["dns"], "name": f"{belongings.name.upper()}.", "ttl": 5}
    with pytest.raises(Conflict):
        put(sef, "b", dns=dns)


@ON_MARIADB
def test_target_group_may_be_shared(world: World) -> None:
    sef, _, belongings = owner(world, "target_groups")
    world.primary(sef, "b")
    put(sef, "b", **belongings.targets)
    assert world.agent("b").cutover == world.agent("a").cutover


def removed(_: World, sef: SmartEmergencyFallback, belongings: Belongings) -> None:
    put(sef, "a")


def replaced(_: World, sef: SmartEmergencyFallback, belongings: Belongings) -> None:
    put(sef, "a", elastic_ip="eipalloc-0123456789abcdef0")


def deleted(world: World, sef: SmartEmergencyFallback, belongings: Belongings) -> None:
    world.write(delete(tables.agents).where(tables.agents.c.id == "a"))


@pytest.mark.parametrize("free", [removed, replaced, deleted])
@ON_MARIADB
def test_target_that_is_given_up_is_free(
    world: World, free: Callable[[World, SmartEmergencyFallback, Belongings], None]
) -> None:
    sef, _, belongings = owner(world, "volumes")
    free(world, sef, belongings)
    world.primary(sef, "b")
    put(sef, "b", **belongings.targets)
    assert {row.agent_id for row in world.rows("target_claims", None)} >= {"b"}
    with pytest.raises(Conflict):
        put(sef, "c", **belongings.targets)


@ON_MARIADB
def test_target_stays_with_an_agent_that_is_out_of_service(world: World) -> None:
    sef, _, belongings = owner(world, "elastic_ip")
    sef.register_agent("a", {"instance_id": None})
    with pytest.raises(Conflict):
        put(sef, "b", **belongings.targets)


def test_two_agents_that_name_a_target_at_once_are_decided_by_the_key(world: World) -> None:
    sef = world.sef(spot_pools=",".join(SAME_ZONE))
    workers = [sef, *(world.sef() for _ in range(3))]
    volumes = [
        {"id": f"vol-0123456789abcde{n:x}0", "device": f"/dev/sd{'fghi'[n]}"} for n in range(4)
    ]

    def name_it(number: int) -> str | None:
        try:
            ordered = volumes if number % 2 else volumes[::-1]
            put(workers[number], f"agent-{number}", volumes=ordered)
        except Conflict as refused:
            return refused.message
        return None

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(name_it, range(4)))
    [winner] = [number for number, refusal in enumerate(answers) if refusal is None]
    refusals = [refusal for refusal in answers if refusal is not None]
    assert all(f"is a target of agent-{winner}" in refusal for refusal in refusals)
    assert {row.agent_id for row in world.rows("target_claims", None)} == {f"agent-{winner}"}
    assert [row.id for row in world.rows("agents", None)] == [f"agent-{winner}"]


# The same private address in two networks


def other_vpc(world: World, block: str, address: str = "") -> str:
    """Launch an instance in another VPC that has the block of the default one."""
    vpc = world.client.create_vpc(CidrBlock=block)["Vpc"]["VpcId"]
    subnet = world.client.create_subnet(VpcId=vpc, CidrBlock=block, AvailabilityZone="us-east-1a")[
        "Subnet"
    ]["SubnetId"]
    if not address:
        return world.launch(SubnetId=subnet, Placement={"AvailabilityZone": "us-east-1a"})
    interface = world.client.create_network_interface(SubnetId=subnet, PrivateIpAddress=address)
    interface_id = interface["NetworkInterface"]["NetworkInterfaceId"]
    return world.launch(NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": interface_id}])


@ON_MARIADB
def test_private_address_belongs_to_one_agent_of_its_vpc(world: World) -> None:
    sef, primary, belongings = owner(world, "private_ip")
    block = belongings.ec2.describe_subnets(SubnetIds=[belongings.interface(primary)["SubnetId"]])[
        "Subnets"
    ][0]["CidrBlock"]
    sef.register_agent("b", {"instance_id": other_vpc(world, block)})
    put(sef, "b", **belongings.targets)
    world.primary(sef, "c")
    with pytest.raises(Conflict):
        put(sef, "c", **belongings.targets)


@ON_MARIADB
def test_private_address_in_an_unknown_vpc_is_warned_of(world: World) -> None:
    sef, _, belongings = owner(world, "private_ip")
    [warning] = put(sef, "b", **belongings.targets)["warnings"]
    assert "is a target of a too" in warning
    with pytest.raises(Conflict):
        put(sef, "c", **belongings.targets)
    world.simulation.add_fault("DescribeInstances", error_code="UnauthorizedOperation")
    put(sef, "a", **belongings.targets)
    keys = {row.target.split(" ")[1] for row in world.rows("target_claims")}
    assert "vpc-unknown" not in keys, "what was known stays known"


# Nobody else is robbed


def move(world: World, belongings: Belongings, name: str, to: str) -> None:
    """Move a target to another instance by hand."""
    ec2 = belongings.ec2
    interface = belongings.interface(to)
    if name == "elastic_ip":
        ec2.associate_address(
            AllocationId=belongings.allocation_id,
            NetworkInterfaceId=interface["NetworkInterfaceId"],
            AllowReassociation=True,
        )
    elif name == "private_ip":
        old = belongings.interface(world.agent().instance_id)["NetworkInterfaceId"]
        address = [belongings.private_ip]
        ec2.unassign_private_ip_addresses(NetworkInterfaceId=old, PrivateIpAddresses=address)
        ec2.assign_private_ip_addresses(
            NetworkInterfaceId=interface["NetworkInterfaceId"], PrivateIpAddresses=address
        )
    elif name == "network_interface":
        eni = ec2.describe_network_interfaces(NetworkInterfaceIds=[belongings.interface_id])
        attachment = eni["NetworkInterfaces"][0]["Attachment"]["AttachmentId"]
        ec2.detach_network_interface(AttachmentId=attachment)
        ec2.attach_network_interface(
            NetworkInterfaceId=belongings.interface_id, InstanceId=to, DeviceIndex=2
        )
    elif name == "volumes":
        ec2.detach_volume(VolumeId=belongings.volume_id)
        ec2.attach_volume(VolumeId=belongings.volume_id, InstanceId=to, Device="/dev/sdf")
    else:
        belongings.write_record(interface["PrivateIpAddress"])


@pytest.mark.parametrize("name", CLAIMED)
@ON_MARIADB
def test_switch_takes_no_target_from_an_unrelated_instance(world: World, name: str) -> None:
    sef, _, belongings = owner(world, name, probation_seconds=0)
    stranger = world.launch()
    move(world, belongings, name, stranger)
    sef.enable_manual_replica_mode("a")
    new = sef.execute_manual_switch("a")["new_instance_id"]
    world.settle(sef, 5)
    assert belongings.held(stranger) == {name}
    [event] = world.events("operator_needed")
    assert f"is with {stranger}, which was never the primary" in event.message
    assert f"move it to {new} by hand" in event.message


@pytest.mark.parametrize("name", ["elastic_ip", "volumes"])
@ON_MARIADB
def test_emergency_takes_no_target_from_the_primary_of_another_agent(
    world: World, name: str
) -> None:
    sef, primary, belongings = owner(world, name)
    other = world.primary(sef, "b")
    move(world, belongings, name, other)
    fail_over(world, sef, primary)
    assert belongings.held(other) == {name}
    [event] = world.events("operator_needed")
    assert f"is with {other}, which serves b" in event.message


@ON_MARIADB
def test_emergency_sets_a_record_whose_address_aws_has_given_to_another_instance(
    world: World,
) -> None:
    sef, primary, belongings = owner(world, "dns")
    stranger = world.launch()
    move(world, belongings, "dns", stranger)
    new = fail_over(world, sef, primary)
    assert belongings.held(new) == {"dns"}


@ON_MARIADB
def test_target_that_an_operator_has_put_to_the_standby_follows(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "volumes", probation_seconds=0)
    sef.enable_manual_replica_mode("a")
    first = world.standby()
    assert first is not None
    move(world, belongings, "volumes", first.instance_id)
    sef.disable_manual_replica_mode("a")
    new = fail_over(world, sef, primary)
    world.settle(sef, 5)
    assert belongings.held(new) == {"elastic_ip", "volumes"}


@pytest.mark.parametrize("name", ["elastic_ip", "private_ip"])
@ON_MARIADB
def test_targets_of_a_primary_whose_instance_was_never_known_follow(
    world: World, name: str
) -> None:
    sef = world.sef(spot_pools=",".join(SAME_ZONE))
    unknown = world.launch()
    belongings = Belongings(world, unknown, name)
    sef.register_agent("a", {"pool_id": SAME_ZONE[0], "cutover": belongings.targets})
    new = str(world.signal(sef, TERMINATION)["new_instance_id"])
    world.settle(sef, 5)
    assert belongings.held(new) == {name}


@ON_MARIADB
def test_same_private_address_in_another_vpc_keeps_nothing(world: World) -> None:
    sef, primary, belongings = owner(world, "dns", probation_seconds=0)
    block = world.client.describe_subnets(SubnetIds=[belongings.interface(primary)["SubnetId"]])[
        "Subnets"
    ][0]["CidrBlock"]
    other_vpc(world, block, belongings.interface(primary)["PrivateIpAddress"])
    sef.enable_manual_replica_mode("a")
    new = sef.execute_manual_switch("a")["new_instance_id"]
    assert belongings.held(new) == {"dns"}
