"""A target belongs to one agent, and is taken from nobody else."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import delete

from sef.db import tables
from sef.errors import Conflict
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import ALL, SAME_ZONE, Belongings, owner
from tests.harness import ONCE, World

CLAIMED = sorted(ALL - {"target_groups"})


def put(sef: SmartEmergencyFallback, agent_id: str, **targets: Any) -> Any:
    return sef.register_agent(agent_id, {"cutover": targets or None})


# A target belongs to one agent


@pytest.mark.parametrize("name", CLAIMED)
@ONCE
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


@ONCE
def test_new_agent_that_names_a_target_of_another_is_not_registered(world: World) -> None:
    sef, _, belongings = owner(world, "volumes", "elastic_ip")
    with pytest.raises(Conflict):
        put(sef, "b", volumes=[{"id": belongings.volume_id, "device": "/dev/sdg"}])
    assert world.rows("agents", "b") == []


@ONCE
def test_record_is_the_same_target_in_every_spelling(world: World) -> None:
    sef, _, belongings = owner(world, "dns")
    dns = {**belongings.targets["dns"], "name": f"{belongings.name.upper()}.", "ttl": 5}
    with pytest.raises(Conflict):
        put(sef, "b", dns=dns)


@ONCE
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
@ONCE
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


@ONCE
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


def other_vpc(world: World, block: str) -> str:
    """Launch an instance in another VPC that has the block of the default one."""
    vpc = world.client.create_vpc(CidrBlock=block)["Vpc"]["VpcId"]
    subnet = world.client.create_subnet(VpcId=vpc, CidrBlock=block, AvailabilityZone="us-east-1a")[
        "Subnet"
    ]["SubnetId"]
    return world.launch(SubnetId=subnet, Placement={"AvailabilityZone": "us-east-1a"})


@ONCE
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


@ONCE
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
