"""Records and target groups follow as they are bound; what cannot follow is said beforehand."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from sef.agents import read_agent
from sef.failover.cutover.traffic_memory import remember_traffic
from smart_emergency_fallback import SmartEmergencyFallback
from tests.belongings.traffic import Group, Zone, launch
from tests.failover.cutover.cutover_targets import cutover_of, fail_over, steps_of
from tests.harness import ONCE, TERMINATION, World

Targets = dict[str, Any]
CNAME = "RRSet of type A with DNS name www.x. is not permitted because a conflicting RRSet of type"
RACE = "[Tried to delete resource record set [name='www.x.', type='A'] but the values provided do "
RACE += "not match the current values]"

WHERE = re.compile("not at your primary|is not registered in")


def registered(world: World, targets: Targets, primary: str = "") -> tuple[Any, str, list[str]]:
    """Return SEF with an agent and its targets, its primary, and the warnings of PUT.

    Warnings of targets that are not at the primary are left out.
    """
    sef = world.sef()
    named = primary or world.launch()
    pool = world.pool_of(named)
    fields = {"instance_id": named, "pool_id": pool, "cutover": targets}
    warnings = sef.register_agent("a", fields)["warnings"]
    return sef, named, [warning for warning in warnings if not WHERE.search(warning)]


def private(world: World, instance_id: str) -> str:
    return str(world.described(instance_id)["PrivateIpAddress"])


def dns(zone: Zone, label: str, **more: Any) -> Targets:
    return {"dns": {"zone_id": zone.id, "name": zone.name(label), **more}}


def switched(world: World, sef: SmartEmergencyFallback) -> str:
    sef.enable_manual_replica_mode("a")
    new = str(sef.execute_manual_switch("a")["new_instance_id"])
    world.settle(sef, 5)
    return new


# Ports


@ONCE
@pytest.mark.parametrize("is_dead", [False, True], ids=["alive", "dead and no longer listed"])
def test_every_port_of_the_old_primary_is_carried_over(world: World, is_dead: bool) -> None:
    group, primary = Group(world), world.launch()
    group.register(primary, 80, 9090)
    sef, _, warnings = registered(world, {"target_groups": [{"arn": group.arn}]}, primary)
    assert warnings == []
    if is_dead:
        world.simulation.terminate(primary)
        group.deregister(primary, 80, 9090)  # as ELBv2 does for an instance that has ended
    new = fail_over(world, sef, primary)
    assert group.targets() == {(new, 80), (new, 9090)}
    assert cutover_of(sef)["status"] == "done"
    # The next primary gets both too, after the last one has ended.
    group.deregister(new, 80, 9090)
    third = fail_over(world, sef, new)
    assert group.targets() == {(third, 80), (third, 9090)}


@ONCE
def test_port_of_the_target_is_the_only_one(world: World) -> None:
    group, primary = Group(world), world.launch()
    group.register(primary, 80, 9090)
    targets = {"target_groups": [{"arn": group.arn, "port": 7070}]}
    sef, _, _ = registered(world, targets, primary)
    new = fail_over(world, sef, primary)
    assert group.targets() == {(new, 7070)}


@ONCE
def test_one_port_of_several_is_not_enough(world: World) -> None:
    group, (primary, other) = Group(world), launch(world, 2)
    group.register(primary, 80, 9090)
    group.register(other, 80)
    sef, _, _ = registered(world, {"target_groups": [{"arn": group.arn}]}, primary)
    sef.register_agent("a", {"instance_id": other})
    world.settle(sef, 5)
    assert group.targets() == {(other, 80), (other, 9090)}


@ONCE
def test_old_primary_is_deregistered_when_all_ports_are_healthy(world: World) -> None:
    group, primary = Group(world), world.launch()
    group.register(primary, 80, 9090)
    sef, _, _ = registered(world, {"target_groups": [{"arn": group.arn}]}, primary)
    world.simulation.set_options(healthy_after_seconds=1000)
    new = switched(world, sef)
    assert group.ports(primary) == group.ports(new) == {80, 9090}
    assert steps_of(sef)["healthy"] == "pending"
    world.simulation.set_options(healthy_after_seconds=0)
    world.settle(sef, 5)
    assert group.targets() == {(new, 80), (new, 9090)}


@ONCE
def test_old_primary_stays_registered_while_the_new_one_is_not(world: World) -> None:
    group, primary = Group(world), world.launch()
    group.register(primary)
    sef, _, _ = registered(world, {"target_groups": [{"arn": group.arn}]}, primary)
    world.simulation.add_fault("RegisterTargets", error_code="TooManyTargets")
    fail_over(world, sef, primary)
    for _ in range(11):
        world.settle(sef, 10)
        assert group.targets() == {(primary, 80)}, "110 s after the notice it still serves"
    assert steps_of(sef)["register"] == "failed"
    assert steps_of(sef)["deregister"] == "pending"
    world.simulation.clear_faults()
    world.settle(sef, 90)
    world.settle(sef, 90)
    assert group.targets() == {(world.agent().instance_id, 80)}
    assert cutover_of(sef)["status"] == "done"


@ONCE
def test_old_primary_leaves_at_its_end_though_the_new_one_is_not_registered(world: World) -> None:
    group, primary = Group(world), world.launch()
    group.register(primary)
    sef, _, _ = registered(world, {"target_groups": [{"arn": group.arn}]}, primary)
    end = (world.clock() + timedelta(seconds=25)).isoformat()
    world.simulation.add_fault("RegisterTargets", error_code="TooManyTargets")
    fail_over(world, sef, primary, termination_time=end)
    world.settle(sef, 10)
    assert group.ports(primary) == {80}
    world.settle(sef, 16)
    assert group.ports(primary) == set()


@ONCE
def test_new_primary_in_a_zone_that_the_load_balancer_does_not_use_gets_no_traffic(
    world: World,
) -> None:
    group, (primary, other) = Group(world), launch(world, 2)
    group.register(primary)
    group.put_behind_load_balancer(world, "us-east-1b", "us-east-1c")
    sef, _, _ = registered(world, {"target_groups": [{"arn": group.arn}]}, primary)
    sef.register_agent("a", {"instance_id": other})
    world.settle(sef, 5)
    world.settle(sef, 400)
    [healthy] = [step for step in cutover_of(sef)["steps"] if step["kind"] == "healthy"]
    assert "Availability Zone is not enabled" in healthy["error"]
    assert group.ports(primary) == {80}


# Records


@ONCE
@pytest.mark.parametrize("is_dead", [False, True], ids=["alive", "dead"])
def test_own_value_of_several_is_replaced_and_the_others_stay(world: World, is_dead: bool) -> None:
    zone, primary = Zone(world), world.launch()
    zone.write("www", "10.9.0.1", private(world, primary), "10.9.0.2")
    sef, _, warnings = registered(world, dns(zone, "www"), primary)
    assert warnings == []
    if is_dead:
        world.simulation.terminate(primary)
    new = fail_over(world, sef, primary)
    assert zone.values("www") == ["10.9.0.1", private(world, new), "10.9.0.2"]
    world.simulation.terminate(new)
    third = fail_over(world, sef, new)
    assert zone.values("www") == ["10.9.0.1", private(world, third), "10.9.0.2"]


@ONCE
def test_values_of_which_none_is_known_to_be_the_primarys_stay(world: World) -> None:
    zone, primary = Zone(world), world.launch()
    zone.write("www", "10.9.0.1", "10.9.0.2")
    sef, _, [warning] = registered(world, dns(zone, "www"), primary)
    assert "does not know which one to replace" in warning
    new = fail_over(world, sef, primary)
    assert zone.values("www") == ["10.9.0.1", "10.9.0.2"]
    [event] = world.events("operator_needed")
    assert "replace it by" in event.message
    zone.write("www", "10.9.0.1", private(world, new))
    world.settle(sef, 90)
    assert cutover_of(sef)["status"] == "done"


@ONCE
@pytest.mark.parametrize(
    ("domain", "label", "named"),
    [
        ("", "*", "*"),
        ("", "*", "\\052"),
        ("", "", ""),
        ("corp", "", ""),
        ("", "_db._tcp", "_DB._tcp"),
    ],
)
def test_record_of_each_form_of_name_moves(
    world: World, domain: str, label: str, named: str
) -> None:
    zone, primary = Zone(world, domain), world.launch()
    zone.write("a", "10.9.0.1")
    zone.write(label, private(world, primary))
    name = f"{named}.{zone.domain}" if named else zone.domain
    targets = {"dns": {"zone_id": zone.long_id, "name": f"{name}."}}
    sef, _, warnings = registered(world, targets, primary)
    assert warnings == []
    new = fail_over(world, sef, primary)
    assert zone.values(label) == [private(world, new)]
    assert zone.values("a") == ["10.9.0.1"]


@ONCE
@pytest.mark.parametrize(
    ("code", "message", "is_final"),
    [
        ("InvalidChangeBatch", CNAME, True),
        ("InvalidChangeBatch", "[RRSet of type A is not allowed in this zone]", True),
        ("InvalidChangeBatch", RACE, False),
        ("InvalidChangeBatch", "[Tried to create x but it already exists]", False),
        ("AccessDenied", "", True),
        ("NoSuchHostedZone", "", True),
        ("PriorRequestNotComplete", "", False),
    ],
)
def test_refusal_for_good_is_told_at_once_and_a_race_is_not(
    world: World, code: str, message: str, is_final: bool
) -> None:
    zone, primary = Zone(world), world.launch()
    zone.write("www", private(world, primary))
    sef, _, _ = registered(world, dns(zone, "www"), primary)
    world.simulation.add_fault("ChangeResourceRecordSets", error_code=code, message=message)
    fail_over(world, sef, primary)
    assert (len(world.events("operator_needed")) == 1) is is_final
    world.simulation.clear_faults()


# Warnings of PUT and of the dry run


def cname(zone: Zone) -> None:
    zone.write("www", "other.example", kind="CNAME")


def alias(zone: Zone) -> None:
    zone.write("other", "10.9.0.1")
    target = {"HostedZoneId": zone.id, "DNSName": zone.name("other")}
    zone.write("www", AliasTarget=target | {"EvaluateTargetHealth": False})


def weighted(zone: Zone) -> None:
    zone.write("www", "10.9.0.1", SetIdentifier="blue", Weight=10)


def slow(zone: Zone) -> None:
    zone.write("www", "10.9.0.1", TTL=86_400)


def none(zone: Zone) -> None:
    zone.write("other", "10.9.0.1")


@ONCE
@pytest.mark.parametrize(
    ("write", "is_private", "more", "said"),
    [
        (cname, True, {}, "has a CNAME record, and Route 53 allows no other record beside it"),
        (alias, True, {}, "is an alias of other."),
        (weighted, True, {}, "a routing policy (Weight, blue)"),
        (slow, True, {}, "TTL of 86400 s"),
        (none, True, {"ttl": 3600}, "TTL of 3600 s"),
        (none, False, {}, "is a public zone, and www."),
        (none, False, {"address": "public"}, None),
        (none, True, {}, None),
    ],
)
def test_record_that_cannot_follow_is_named_beforehand(
    world: World, write: Callable[[Zone], None], is_private: bool, more: Any, said: str | None
) -> None:
    zone = Zone(world, private=is_private)
    write(zone)
    sef, primary, warnings = registered(world, dns(zone, "www", **more))
    planned = world.signal(sef, TERMINATION, instance_id=primary, dry_run=True)["warnings"]
    assert [warning for warning in planned if not WHERE.search(warning)] == warnings
    assert [said is not None and said in warning for warning in warnings] == [True] * bool(said)


@ONCE
def test_standby_without_a_public_address_is_named_beforehand(world: World) -> None:
    zone = Zone(world, private=False)
    vpc = world.client.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    subnet = world.client.create_subnet(
        VpcId=vpc, CidrBlock="10.7.1.0/24", AvailabilityZone="us-east-1a"
    )["Subnet"]["SubnetId"]
    primary = world.launch(SubnetId=subnet)
    _, _, [warning] = registered(world, dns(zone, "www", address="public"), primary)
    assert f"{primary} has no public IP address" in warning


@ONCE
def test_group_of_another_network_is_named_beforehand(world: World) -> None:
    vpc = world.client.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    group = Group(world, vpc)
    _, primary, warnings = registered(world, {"target_groups": [{"arn": group.arn}]})
    [warning] = [one for one in warnings if "it cannot be registered" in one]
    assert warning.startswith(f"cutover.target_groups: {primary} is in vpc-")


@ONCE
def test_port_that_was_added_later_is_known_after_the_next_look(world: World) -> None:
    group, zone, primary = Group(world), Zone(world), world.launch()
    group.register(primary, 80)
    zone.write("www", "10.9.0.1", "10.9.0.2")
    targets = {"target_groups": [{"arn": group.arn}], **dns(zone, "www")}
    sef, _, _ = registered(world, targets, primary)
    group.register(primary, 9090)
    zone.write("www", "10.9.0.1", private(world, primary))
    ctx = sef._context
    agent = ctx.database.read(read_agent, "a")
    remember_traffic(ctx, agent)
    # A look at which AWS shows nothing forgets nothing.
    world.simulation.add_fault("DescribeTargetHealth", error_code="AccessDenied")
    world.simulation.add_fault("ListResourceRecordSets", error_code="Throttling")
    remember_traffic(ctx, agent)
    world.simulation.clear_faults()
    world.simulation.terminate(primary)
    group.deregister(primary, 80, 9090)
    new = fail_over(world, sef, primary)
    assert group.targets() == {(new, 80), (new, 9090)}
    assert zone.values("www") == ["10.9.0.1", private(world, new)]
