"""Standbys and emergency launches are where every target can follow."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import update

from sef.cloud.clients import Clients
from sef.db import tables
from sef.terms import LaunchAway
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import Belongings, cutover_of, fail_over
from tests.harness import ALIVE, ONCE, OTHERS, POOL, REBALANCE, TERMINATION, World

CHEAP_ELSEWHERE = [POOL, "m5a.large.us-east-1a", "c5.large.us-east-1b", "c5.large.us-east-1c"]
HERE = "us-east-1a"
DENIED = "UnauthorizedOperation"


class Vpc:
    """A VPC with two subnets in one zone, of which the primary's is the smaller, and one beside."""

    def __init__(self, world: World) -> None:
        self.ec2 = world.client
        self.id = self.ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
        self.own = self._subnet("10.77.1.0/28", HERE)
        self.roomy = self._subnet("10.77.16.0/20", HERE)
        self.beside = self._subnet("10.77.32.0/20", "us-east-1b")
        group = self.ec2.create_security_group(
            GroupName=f"g-{uuid4().hex[:8]}", Description="d", VpcId=self.id
        )
        self.group = group["GroupId"]

    def _subnet(self, block: str, zone: str) -> str:
        made = self.ec2.create_subnet(VpcId=self.id, CidrBlock=block, AvailabilityZone=zone)
        return made["Subnet"]["SubnetId"]

    def primary(self, world: World, sef: SmartEmergencyFallback) -> str:
        instance_id = world.launch(
            SubnetId=self.own, SecurityGroupIds=[self.group], Placement={"Tenancy": "default"}
        )
        sef.register_agent("a", {"instance_id": instance_id, "pool_id": POOL})
        return instance_id


def subnet_of(world: World, instance_id: str) -> str:
    return str(world.described(instance_id)["SubnetId"])


def standby_of(world: World) -> str:
    standby = world.standby()
    assert standby is not None
    return str(standby.instance_id)


def launched(world: World, sef: SmartEmergencyFallback, primary: str, how: str) -> str:
    """Return the instance that SEF launches in a way."""
    if how == "manual mode":
        sef.enable_manual_replica_mode("a")
        return standby_of(world)
    if how == "recommendation":
        world.signal(sef, REBALANCE, instance_id=primary)
        return standby_of(world)
    if how == "death":
        world.simulation.terminate(primary)
    return fail_over(world, sef, primary)


HOW = ["manual mode", "recommendation", "notice", "death"]


@pytest.mark.parametrize("how", HOW)
@ONCE
def test_private_address_keeps_the_standby_in_its_subnet(world: World, how: str) -> None:
    sef = world.sef(spot_pools="m5.large.us-east-1a,m5a.large.us-east-1a,c5.large.us-east-1b")
    vpc = Vpc(world)
    primary = vpc.primary(world, sef)
    belongings = Belongings(world, primary, "private_ip")
    sef.register_agent("a", {"cutover": belongings.targets})
    new = launched(world, sef, primary, how)
    assert subnet_of(world, new) == vpc.own
    if how in ("notice", "death"):
        assert belongings.held(new) == {"private_ip"}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["network_interface", "private_ip"])
@ONCE
def test_cheaper_pool_elsewhere_is_not_chosen(world: World, name: str, how: str) -> None:
    sef = world.sef(spot_pools=",".join(CHEAP_ELSEWHERE))
    primary = world.primary(sef)
    belongings = Belongings(world, primary, name)
    answer = sef.register_agent("a", {"cutover": belongings.targets})
    [warning] = answer["warnings"]
    assert f"cutover.{name}" in warning
    assert "c5.large.us-east-1b, c5.large.us-east-1c" in warning
    new = launched(world, sef, primary, how)
    assert world.pool_of(new) == "m5a.large.us-east-1a"
    if how == "notice":
        assert belongings.held(new) == {name}


@pytest.mark.parametrize(
    ("setting", "calm", "emergency"),
    [
        (LaunchAway.EMERGENCY, False, True),
        (LaunchAway.ALWAYS, True, True),
        (LaunchAway.NEVER, False, False),
    ],
)
@pytest.mark.parametrize("is_emergency", [False, True])
@ONCE
def test_setting_decides_between_service_and_target(
    world: World, setting: LaunchAway, calm: bool, emergency: bool, is_emergency: bool
) -> None:
    sef = world.sef(spot_pools=",".join(CHEAP_ELSEWHERE), launch_away_from_targets=setting)
    primary = world.primary(sef)
    belongings = Belongings(world, primary, "volumes")
    sef.register_agent("a", {"cutover": belongings.targets})
    for pool in CHEAP_ELSEWHERE[:2]:
        world.simulation.set_pool(pool, capacity=False)
        world.simulation.add_fault(
            "RunInstances", pool=pool, error_code="InsufficientInstanceCapacity"
        )
    world.signal(sef, TERMINATION if is_emergency else REBALANCE, instance_id=primary)
    told = world.events("targets_left_behind")
    if emergency if is_emergency else calm:
        [new] = world.alive()
        assert new.pool.endswith(("us-east-1b", "us-east-1c"))
        assert belongings.volume_id in told[0].message
        if is_emergency:
            assert world.agent().instance_id == new.id, "the service is kept alive"
    else:
        assert world.alive() == []
        assert told == []
        [failed] = world.replicas("a", "failed")
        assert f"{belongings.volume_id} cannot follow" in failed.reason
        world.simulation.clear_faults()
        for pool in CHEAP_ELSEWHERE[:2]:
            world.simulation.set_pool(pool, capacity=True)
        for _ in range(8):
            world.settle(sef, 60)
        assert [i.pool for i in world.alive()] == ["m5a.large.us-east-1a"]


@ONCE
def test_target_that_stays_behind_is_told_once_and_fails_with_its_reason(world: World) -> None:
    sef = world.sef(spot_pools=",".join(OTHERS), allow_on_demand=False)
    primary = world.primary(sef)
    belongings = Belongings(world, primary, "volumes", "elastic_ip")
    answer = sef.register_agent("a", {"cutover": belongings.targets})
    assert any("no spot pool but the primary's own" in w for w in answer["warnings"])
    world.simulation.add_fault("RunInstances", pool=POOL, error_code="InsufficientHostCapacity")
    for zone in "a":
        for kind in ("m5.large",):
            world.simulation.set_pool(f"{kind}.us-east-1{zone}", capacity=False)
    new = fail_over(world, sef, primary)
    assert world.pool_of(new) in OTHERS
    for _ in range(4):
        world.settle(sef, 30)
    assert len(world.events("targets_left_behind")) == 1
    assert belongings.held(new) == {"elastic_ip"}
    [volume] = [step for step in cutover_of(sef)["steps"] if step["kind"] == "volume"]
    assert "cannot leave its zone" in volume["error"]


def forgets(world: World) -> None:
    """EC2 shows the ended primary without its network."""
    omitted = ["vpcId", "subnetId", "groupSet", "networkInterfaceSet"]
    world.simulation.add_fault("DescribeInstances", omit=omitted, count=4)


def hides(world: World) -> None:
    world.simulation.add_fault("DescribeInstances", omit=["item"], count=4)


def is_late(world: World) -> None:
    for action in ("DescribeVolumes", "DescribeNetworkInterfaces", "DescribeAddresses"):
        world.simulation.add_fault(action, error_code="RequestLimitExceeded", count=20)


def refuses(world: World) -> None:
    for action in ("DescribeVolumes", "DescribeNetworkInterfaces", "DescribeSubnets"):
        world.simulation.add_fault(action, error_code=DENIED, count=20)


@pytest.mark.parametrize("trouble", [forgets, hides, is_late, refuses])
@pytest.mark.parametrize("name", ["volumes", "private_ip"])
@ONCE
def test_place_is_known_when_the_primary_is_dead(
    world: World, name: str, trouble: Callable[[World], None]
) -> None:
    sef = world.sef(spot_pools="m5.large.us-east-1a,m5a.large.us-east-1a,c5.large.us-east-1b")
    vpc = Vpc(world)
    primary = vpc.primary(world, sef)
    sef.register_agent("a", {"cutover": Belongings(world, primary, name).targets})
    for client in world_constants(world):
        client.clear()
    world.simulation.terminate(primary)
    trouble(world)
    world.signal(sef, TERMINATION, instance_id=primary)
    [attempt] = world.attempts()
    assert attempt.pool_id == "m5a.large.us-east-1a"
    assert attempt.parameters["SecurityGroupIds"] == [vpc.group]
    made = attempt.parameters["SubnetId"]
    assert made == vpc.own


def world_constants(world: World) -> list[dict[Any, Any]]:
    from tests.harness import clients_of

    return [clients_of(world.simulation.endpoint).constants]


# Refused look-ups


@ONCE
def test_subnets_that_ec2_refuses_to_list_leave_the_primarys_own(world: World) -> None:
    sef = world.sef(spot_pools="m5.large.us-east-1a,m5a.large.us-east-1a,c5.large.us-east-1b")
    vpc = Vpc(world)
    primary = vpc.primary(world, sef)
    world.simulation.add_fault("DescribeSubnets", error_code=DENIED)
    plan = world.signal(sef, TERMINATION, instance_id=primary, dry_run=True)
    assert any("DescribeSubnets" in w or DENIED in w for w in plan["warnings"])
    assert {c["pool_id"] for c in plan["plan"][0]["candidates"]} == {
        "m5.large.us-east-1a",
        "m5a.large.us-east-1a",
    }
    new = fail_over(world, sef, primary)
    assert subnet_of(world, new) == vpc.own
    assert world.pool_of(new) == "m5a.large.us-east-1a"
    for _ in range(3):
        world.settle(sef, 60)
    assert len(world.events("launch_incomplete")) == 1


@ONCE
def test_user_data_that_ec2_refuses_to_show_is_left_out(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef, UserData="#!/bin/sh")
    world.simulation.add_fault("DescribeInstanceAttribute", error_code=DENIED)
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["new_instance_id"] is not None
    [event] = world.events("launch_incomplete")
    assert "user data is not copied" in event.message


@ONCE
def test_user_data_that_was_seen_before_is_copied(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef, UserData="#!/bin/sh")
    sef.register_agent("a", {"cutover": Belongings(world, primary, "elastic_ip").targets})
    world.simulation.add_fault("DescribeInstanceAttribute", error_code=DENIED)
    world.signal(sef, TERMINATION, instance_id=primary)
    assert world.attempts()[0].parameters["UserData"]
    assert world.events("launch_incomplete") == []


# Pools that cannot be


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        ("m5.large.us-east-1c", "no subnet of vpc-"),
        ("m5.large.us-east-1e", "no subnet of vpc-"),
        ("m6g.large.us-east-1b", "does not support the architecture of the image, x86_64"),
        ("nope.large.us-east-1b", "nope.large is not offered in us-east-1b"),
    ],
)
@ONCE
def test_pool_that_cannot_be_is_never_tried(world: World, pool: str, reason: str) -> None:
    good = "c5.large.us-east-1b"
    sef = world.sef(spot_pools=f"{POOL},{pool},{good}")
    primary = Vpc(world).primary(world, sef)
    plan = world.signal(sef, TERMINATION, instance_id=primary, dry_run=True)
    assert {c["pool_id"] for c in plan["plan"][0]["candidates"]} == {POOL, good}
    assert any(f"SEF never launches in {pool}: " in w and reason in w for w in plan["warnings"])
    new = fail_over(world, sef, primary)
    assert world.pool_of(new) == good
    assert len(world.attempts()) == 1


@pytest.mark.parametrize(
    ("index", "small", "chosen"),
    [(1, "t2.micro", True), (2, "t2.micro", False), (2, "m5a.large", True), (3, "m5.large", False)],
)
@ONCE
def test_interfaces_of_a_type_count(world: World, index: int, small: str, chosen: bool) -> None:
    pools = [f"{small}.us-east-1a", "x1.16xlarge.us-east-1a"]
    sef = world.sef(spot_pools=",".join(pools))
    primary = world.primary(sef, pool="r5.large.us-east-1a")
    belongings = Belongings(world, primary, "network_interface")
    interface = {**belongings.targets["network_interface"], "device_index": index}
    warnings = sef.register_agent("a", {"cutover": {"network_interface": interface}})["warnings"]
    assert any("more interfaces" in w and small in w for w in warnings) is not chosen
    new = fail_over(world, sef, primary)
    assert world.pool_of(new) == pools[0 if chosen else 1]


@pytest.mark.parametrize("action", ["DescribeInstanceTypes", "DescribeInstanceTypeOfferings"])
@ONCE
def test_types_that_ec2_refuses_to_show_are_tried(world: World, action: str) -> None:
    for constants in world_constants(world):
        constants.clear()
    world.simulation.add_fault(action, error_code=DENIED)
    sef = world.sef(spot_pools="t2.micro.us-east-1a")
    primary = world.primary(sef)
    targets = Belongings(world, primary, "network_interface").targets
    sef.register_agent("a", {"cutover": targets})
    assert world.pool_of(fail_over(world, sef, primary)) == "t2.micro.us-east-1a"


@ONCE
def test_look_ups_that_hang_do_not_delay_an_emergency(world: World) -> None:
    import time

    pools = "m5.large.us-east-1a,m5a.large.us-east-1a"
    sef = world.sef(spot_pools=pools, probation_seconds=0)
    primary = world.primary(sef)
    targets = Belongings(world, primary, "volumes").targets
    sef.register_agent("a", {"cutover": targets})
    for constants in world_constants(world):
        constants.clear()
    for action in ("DescribeInstanceTypes", "DescribeInstanceTypeOfferings"):
        world.simulation.add_fault(action, delay_seconds=4)
    began = time.monotonic()
    new = fail_over(world, sef, primary)
    assert time.monotonic() - began < 3.5
    assert world.pool_of(new) == "m5a.large.us-east-1a"


# Elastic IPs and target groups


def answers(on: str, change: Callable[[Any], None]) -> Callable[[World], Any]:
    """Return new clients whose answers to a call are changed: moto lacks some fields."""

    def make(world: World) -> Any:
        clients = Clients("us-east-1", world.simulation.endpoint, simulated=True)
        clients.ec2.meta.events.register(f"after-call.ec2.{on}", lambda parsed, **_: change(parsed))
        return clients

    return make


@pytest.mark.parametrize("emergency", [False, True])
@ONCE
def test_elastic_ip_keeps_the_standby_in_its_border_group(world: World, emergency: bool) -> None:
    def change(parsed: Any) -> None:
        for address in parsed.get("Addresses", []):
            address["NetworkBorderGroup"] = "us-east-1"
        for zone in parsed.get("AvailabilityZones", []):
            is_local = zone["ZoneName"] == "us-east-1b"
            zone["NetworkBorderGroup"] = "us-east-1-bos-1" if is_local else "us-east-1"

    clients = answers("DescribeAddresses", change)(world)
    clients.ec2.meta.events.register(
        "after-call.ec2.DescribeAvailabilityZones", lambda parsed, **_: change(parsed)
    )
    sef = world.sef(spot_pools=f"{POOL},c5.large.us-east-1b,m5.large.us-east-1c", clients=clients)
    primary = world.primary(sef)
    belongings = Belongings(world, primary, "elastic_ip")
    [warning] = sef.register_agent("a", {"cutover": belongings.targets})["warnings"]
    assert "SEF launches in c5.large.us-east-1b only to replace" in warning
    new = launched(world, sef, primary, "notice" if emergency else "manual mode")
    assert world.pool_of(new) == "m5.large.us-east-1c"


@pytest.mark.parametrize("refused", [False, True])
@ONCE
def test_target_group_keeps_the_standby_in_zones_of_its_load_balancer(
    world: World, refused: bool
) -> None:
    sef = world.sef(spot_pools=f"{POOL},c5.large.us-east-1b,m5.large.us-east-1c")
    primary = world.primary(sef)
    belongings = Belongings(world, primary, "target_groups")
    belongings.add_load_balancer("us-east-1a", "us-east-1c")
    if refused:
        world.simulation.add_fault("DescribeLoadBalancers", error_code="AccessDenied")
    warnings = sef.register_agent("a", {"cutover": belongings.targets})["warnings"]
    assert len(warnings) == (0 if refused else 1)
    plan = world.signal(sef, REBALANCE, instance_id=primary, dry_run=True)["plan"]
    pools = {candidate["pool_id"] for candidate in plan[0]["candidates"]}
    assert pools == {"m5.large.us-east-1c", *(["c5.large.us-east-1b"] if refused else [])}


@ONCE
def test_target_group_of_another_vpc_is_told(world: World) -> None:
    sef = world.sef(spot_pools=f"{POOL},c5.large.us-east-1b")
    primary = Vpc(world).primary(world, sef)
    other = world.launch()
    belongings = Belongings(world, other, "target_groups")
    warnings = sef.register_agent("a", {"cutover": belongings.targets})["warnings"]
    assert any("target_groups" in w and "can follow only to vpc-" in w for w in warnings)
    # No pool has what is missing, so an emergency leaves the group behind.
    assert fail_over(world, sef, primary) not in (None, primary)
    assert len(world.events("targets_left_behind")) == 1


# Attributes that only ModifyInstanceAttribute sets


def nat(world: World, sef: SmartEmergencyFallback) -> str:
    primary = world.primary(sef)
    world.client.modify_instance_attribute(InstanceId=primary, SourceDestCheck={"Value": False})
    return primary


@pytest.mark.parametrize("how", ["manual mode", "notice"])
@ONCE
def test_source_destination_check_stays_off(world: World, how: str) -> None:
    sef = world.sef()
    new = launched(world, sef, nat(world, sef), how)
    assert world.described(new)["SourceDestCheck"] is False
    if how == "manual mode":
        sef.execute_manual_switch("a")
    again = fail_over(world, sef, new)
    assert world.described(again)["SourceDestCheck"] is False


@ONCE
def test_attribute_that_ec2_throttles_delays_nothing_and_is_set_later(world: World) -> None:
    sef = world.sef()
    primary = nat(world, sef)
    world.simulation.throttle("ModifyInstanceAttribute", count=8)
    new = fail_over(world, sef, primary)
    assert world.agent().instance_id == new
    for _ in range(6):
        sef.sweep_orphans()
    assert world.described(new)["SourceDestCheck"] is False


@ONCE
def test_attribute_that_ec2_refuses_is_told_once(world: World) -> None:
    sef = world.sef()
    primary = nat(world, sef)
    world.simulation.add_fault("ModifyInstanceAttribute", error_code=DENIED)
    new = fail_over(world, sef, primary)
    for _ in range(3):
        sef.sweep_orphans()
        world.settle(sef, 60)
    [event] = world.events("launch_incomplete")
    assert f"SourceDestCheck of {new}" in event.message


# A standby from before the target


@pytest.mark.parametrize("name", ["volumes", "private_ip"])
@ONCE
def test_standby_from_before_the_target_is_replaced(world: World, name: str) -> None:
    sef = world.sef(spot_pools=f"{POOL},c5.large.us-east-1b")
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    first = standby_of(world)
    assert world.pool_of(first) == "c5.large.us-east-1b"
    belongings = Belongings(world, primary, name)
    warnings = sef.register_agent("a", {"cutover": belongings.targets})["warnings"]
    assert not any("SEF releases it" in w for w in warnings), "no better one can be launched"
    assert any(f"cannot follow to the standby {first}" in w for w in warnings)
    later = world.sef(spot_pools=f"{POOL},m5a.large.us-east-1a,c5.large.us-east-1b")
    [warning] = [
        w
        for w in later.register_agent("a", {"cutover": belongings.targets})["warnings"]
        if "SEF releases it" in w
    ]
    assert first in warning
    for _ in range(3):
        world.settle(later, 70)
    assert world.pool_of(standby_of(world)) == "m5a.large.us-east-1a"
    assert world.state(first) not in ALIVE
    new = str(later.execute_manual_switch("a")["new_instance_id"])
    assert belongings.held(new) == {name}


@ONCE
def test_standby_in_another_place_is_kept_in_an_emergency(world: World) -> None:
    pools = f"{POOL},m5a.large.us-east-1a,c5.large.us-east-1b"
    sef = world.sef(spot_pools=f"{POOL},c5.large.us-east-1b")
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    first = standby_of(world)
    belongings = Belongings(world, primary, "volumes")
    # EC2 does not confirm that the standby runs, so the emergency is still open at the PUT.
    world.write(
        update(tables.replica_instances)
        .where(tables.replica_instances.c.instance_id == first)
        .values(misses=1)
    )
    world.simulation.add_fault("DescribeInstances", omit=["item"], count=1)
    world.signal(sef, TERMINATION, instance_id=primary)
    later = world.sef(spot_pools=pools)
    warnings = later.register_agent("a", {"cutover": belongings.targets})["warnings"]
    assert not any("SEF releases it" in w for w in warnings)
    for _ in range(2):
        world.settle(later, 40)
    assert world.state(first) in ALIVE


@ONCE
def test_standby_that_no_pool_takes_says_so(world: World) -> None:
    """Without another type in the zone of the volume, only the primary's own pool is left."""
    sef = world.sef(spot_pools=",".join([POOL, *OTHERS]))
    belongings = Belongings(world, world.primary(sef), "volumes")
    sef.register_agent("a", {"cutover": belongings.targets})
    sef.enable_manual_replica_mode("a")
    reason = str(world.agent().put_off_because)
    assert "(none can be tried)" in reason
    assert f"{POOL}: spot is not launched in the pool of the primary" in reason
    assert f"{OTHERS[0]}: volumes {belongings.volume_id} cannot follow" in reason
