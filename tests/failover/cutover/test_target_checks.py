"""Cutover targets are checked when an operator registers them, and in a dry run."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from sef.terms import LaunchAway
from tests.failover.cutover.cutover_targets import SAME_ZONE, Belongings
from tests.harness import ONCE, OTHERS, TERMINATION, World

MISSING_GROUP = (
    "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/web/0123456789abcdef"
)


def volume_elsewhere(world: World, _: Belongings) -> Any:
    volume = world.client.create_volume(AvailabilityZone="us-east-1b", Size=1)
    return {"volumes": [{"id": volume["VolumeId"], "device": "/dev/sdf"}]}


def group_of_addresses(_: World, belongings: Belongings) -> Any:
    vpc = belongings.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = belongings.elbv2.create_target_group(
        Name=f"ip-{uuid4().hex[:8]}",
        Protocol="HTTP",
        Port=80,
        VpcId=vpc,
        TargetType="ip",
    )
    return {"target_groups": [{"arn": group["TargetGroups"][0]["TargetGroupArn"]}]}


def alias(_: World, belongings: Belongings) -> Any:
    name = belongings.name.replace("www", "alias")
    target = {"HostedZoneId": belongings.zone_id, "DNSName": belongings.name}
    record: Any = {
        "Name": name,
        "Type": "A",
        "AliasTarget": target | {"EvaluateTargetHealth": False},
    }
    belongings.route53.change_resource_record_sets(
        HostedZoneId=belongings.zone_id,
        ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]},
    )
    return {"dns": {"zone_id": belongings.zone_id, "name": name}}


def dns(name: str) -> Callable[[World, Belongings], Any]:
    return lambda _, belongings: {"dns": {"zone_id": belongings.zone_id, "name": name}}


def named(targets: Any) -> Callable[[World, Belongings], Any]:
    return lambda world, belongings: targets


INVALID = [
    pytest.param(
        named({"elastic_ip": "eipalloc-0123abcd"}),
        "cutover.elastic_ip: InvalidAllocationID.NotFound",
        id="no address",
    ),
    pytest.param(
        named({"volumes": [{"id": "vol-0123abcd", "device": "/dev/sdf"}]}),
        "cutover.volumes: InvalidVolume.NotFound",
        id="no volume",
    ),
    pytest.param(volume_elsewhere, "is in us-east-1b and the primary in us-east-1a", id="its zone"),
    pytest.param(
        named({"network_interface": {"id": "eni-0123abcd"}}),
        "cutover.network_interface: InvalidNetworkInterfaceID.NotFound",
        id="no interface",
    ),
    pytest.param(named({"private_ip": "192.0.2.1"}), "192.0.2.1 is not in subnet-", id="no subnet"),
    pytest.param(
        named({"target_groups": [{"arn": MISSING_GROUP}]}),
        "cutover.target_groups: TargetGroupNotFound",
        id="no group",
    ),
    pytest.param(group_of_addresses, "are of type ip", id="group of addresses"),
    pytest.param(
        named({"dns": {"zone_id": "Z0123456789ABC", "name": "www.example.com"}}),
        "cutover.dns: NoSuchHostedZone",
        id="no zone",
    ),
    pytest.param(dns("www.example.com"), "www.example.com is not in the zone", id="other zone"),
    pytest.param(alias, "is an alias", id="alias"),
]


@pytest.mark.parametrize(("targets_of", "warning"), INVALID)
@ONCE
def test_target_that_cannot_follow_is_registered_with_a_warning(
    world: World, targets_of: Callable[[World, Belongings], Any], warning: str
) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    targets = targets_of(world, Belongings(world, primary, "dns"))
    answer = sef.register_agent("a", {"cutover": targets})
    assert (answer["status"], answer["agent"]["cutover"].keys()) == ("success", targets.keys())
    given = answer["warnings"]
    planned = world.signal(sef, TERMINATION, instance_id=primary, dry_run=True)["warnings"]
    if targets_of is volume_elsewhere:
        # No instance has the volume, and the new primary would be in its zone.
        at_nobody, misplaced = given
        assert "is at no instance, not at your primary" in at_nobody
        assert planned == [at_nobody]
    else:
        [misplaced] = given
        assert planned == given
    assert warning in misplaced


@ONCE
def test_targets_that_can_follow_have_no_warnings(world: World) -> None:
    sef = world.sef(spot_pools=",".join(SAME_ZONE))
    primary = world.primary(sef)
    targets = Belongings(world, primary).targets
    assert sef.register_agent("a", {"cutover": targets})["warnings"] == []
    assert world.signal(sef, TERMINATION, instance_id=primary, dry_run=True)["warnings"] == []


@ONCE
def test_dry_run_checks_the_zone_of_the_planned_primary(world: World) -> None:
    sef = world.sef(spot_pools=",".join(OTHERS), launch_away_from_targets=LaunchAway.ALWAYS)
    primary = world.primary(sef)
    belongings = Belongings(world, primary, "volumes")
    sef.register_agent("a", {"cutover": belongings.targets})
    for pool in SAME_ZONE:
        world.simulation.set_pool(pool, capacity=False)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    answer = sef.handle_rebalance_recommendation("a", {}, dry_run=True)
    zone = answer["plan"][0]["candidates"][0]["pool_id"].rpartition(".")[2]
    assert zone != "us-east-1a"
    assert answer["warnings"][0] == (
        f"{belongings.volume_id} is in us-east-1a and the primary in {zone}: "
        "it cannot leave its zone"
    )


@ONCE
def test_dry_run_of_a_switch_has_the_warnings(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.register_agent("a", {"cutover": {"elastic_ip": "eipalloc-0123abcd"}})
    sef.enable_manual_replica_mode("a")
    warning, kept = sef.execute_manual_switch("a", dry_run=True)["warnings"]
    assert "InvalidAllocationID.NotFound" in warning
    assert f"{primary} keeps running after the switch: it still has elastic-ip" in kept


@ONCE
def test_targets_are_registered_unchecked_while_aws_throttles(world: World) -> None:
    sef = world.sef()
    targets = Belongings(world, world.primary(sef), "elastic_ip", "private_ip").targets
    world.simulation.add_fault("DescribeAddresses", error_code="RequestLimitExceeded")
    answer = sef.register_agent("a", {"cutover": targets})
    assert answer["agent"]["cutover"].keys() == targets.keys()
    assert [w.partition(":")[0] for w in answer["warnings"][:2]] == [
        "cutover.elastic_ip",
        "AWS did not return a usable answer; other targets not checked",
    ]
    # The subnet of the private address is known without DescribeAddresses.
    [place] = answer["warnings"][2:]
    assert place.startswith("no spot pool but the primary's own is where every cutover target")


@ONCE
def test_private_address_is_not_checked_while_the_primary_is_unknown(world: World) -> None:
    sef = world.sef()
    answer = sef.register_agent("a", {"cutover": {"private_ip": "10.0.0.9"}})
    assert answer["warnings"] == []
