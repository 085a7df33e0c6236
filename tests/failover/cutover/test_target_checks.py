"""Cutover targets are looked up before they are needed: when they are named, and in a dry run."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.failover.cutover.cutover_targets import SAME_ZONE, Belongings
from tests.harness import ONCE, OTHERS, TERMINATION, World

NOWHERE = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/web/0123456789abcdef"


def volume_elsewhere(world: World, _: Belongings) -> Any:
    made = world.client.create_volume(AvailabilityZone="us-east-1b", Size=1)
    return {"volumes": [{"id": made["VolumeId"], "device": "/dev/sdf"}]}


def group_of_addresses(_: World, belongings: Belongings) -> Any:
    vpc = belongings.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    made = belongings.elbv2.create_target_group(
        Name=f"ip-{belongings.volume_id[-8:]}",
        Protocol="HTTP",
        Port=80,
        VpcId=vpc,
        TargetType="ip",
    )
    return {"target_groups": [{"arn": made["TargetGroups"][0]["TargetGroupArn"]}]}


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


def said(targets: Any) -> Callable[[World, Belongings], Any]:
    return lambda world, belongings: targets


WRONG = [
    pytest.param(
        said({"elastic_ip": "eipalloc-0123abcd"}),
        "cutover.elastic_ip: InvalidAllocationID.NotFound",
        id="no address",
    ),
    pytest.param(
        said({"volumes": [{"id": "vol-0123abcd", "device": "/dev/sdf"}]}),
        "cutover.volumes: InvalidVolume.NotFound",
        id="no volume",
    ),
    pytest.param(volume_elsewhere, "is in us-east-1b and the primary in us-east-1a", id="its zone"),
    pytest.param(
        said({"network_interface": {"id": "eni-0123abcd"}}),
        "cutover.network_interface: InvalidNetworkInterfaceID.NotFound",
        id="no interface",
    ),
    pytest.param(said({"private_ip": "192.0.2.1"}), "192.0.2.1 is not in subnet-", id="no subnet"),
    pytest.param(
        said({"target_groups": [{"arn": NOWHERE}]}),
        "cutover.target_groups: TargetGroupNotFound",
        id="no group",
    ),
    pytest.param(group_of_addresses, "are of type ip", id="group of addresses"),
    pytest.param(
        said({"dns": {"zone_id": "Z0123456789ABC", "name": "www.example.com"}}),
        "cutover.dns: NoSuchHostedZone",
        id="no zone",
    ),
    pytest.param(dns("www.example.com"), "www.example.com is not in the zone", id="other zone"),
    pytest.param(alias, "is an alias", id="alias"),
]


@pytest.mark.parametrize(("named", "warning"), WRONG)
@ONCE
def test_what_cannot_follow_is_a_warning_and_no_refusal(
    world: World, named: Callable[[World, Belongings], Any], warning: str
) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    targets = named(world, Belongings(world, primary))
    answer = sef.register_agent("a", {"cutover": targets})
    assert (answer["status"], answer["agent"]["cutover"].keys()) == ("success", targets.keys())
    [told] = answer["warnings"]
    assert warning in told
    rehearsed = world.signal(sef, TERMINATION, instance_id=primary, dry_run=True)["warnings"]
    # The new primary would be in the zone of the volume.
    assert rehearsed == ([] if named is volume_elsewhere else [told])


@ONCE
def test_what_can_follow_is_no_warning(world: World) -> None:
    sef = world.sef(spot_pools=",".join(SAME_ZONE))
    primary = world.primary(sef)
    targets = Belongings(world, primary).targets
    assert sef.register_agent("a", {"cutover": targets})["warnings"] == []
    assert world.signal(sef, TERMINATION, instance_id=primary, dry_run=True)["warnings"] == []


@ONCE
def test_a_dry_run_looks_at_the_zone_that_the_new_primary_would_be_in(world: World) -> None:
    sef = world.sef(spot_pools=",".join(OTHERS))
    primary = world.primary(sef)
    belongings = Belongings(world, primary)
    sef.register_agent("a", {"cutover": {"volumes": belongings.targets["volumes"]}})
    for pool in SAME_ZONE:
        world.simulation.set_pool(pool, capacity=False)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    answer = sef.handle_rebalance_recommendation("a", {}, dry_run=True)
    zone = answer["plan"][0]["candidates"][0]["pool_id"].rpartition(".")[2]
    assert zone != "us-east-1a"
    assert answer["warnings"] == [
        f"{belongings.volume_id} is in us-east-1a and the primary in {zone}: "
        "it cannot leave its zone"
    ]


@ONCE
def test_the_switch_of_an_operator_is_rehearsed_with_its_warnings(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    sef.register_agent("a", {"cutover": {"elastic_ip": "eipalloc-0123abcd"}})
    sef.enable_manual_replica_mode("a")
    [warning] = sef.execute_manual_switch("a", dry_run=True)["warnings"]
    assert "InvalidAllocationID.NotFound" in warning


@ONCE
def test_when_aws_cannot_say_targets_are_taken_and_it_is_asked_once(world: World) -> None:
    sef = world.sef()
    targets = Belongings(world, world.primary(sef)).targets
    world.simulation.add_fault("DescribeAddresses", error_code="RequestLimitExceeded")
    answer = sef.register_agent("a", {"cutover": targets})
    assert answer["agent"]["cutover"].keys() == targets.keys()
    assert [w.partition(":")[0] for w in answer["warnings"]] == [
        "cutover.elastic_ip",
        "AWS did not return a usable answer; other targets not checked",
    ]


@ONCE
def test_before_the_primary_is_known_what_depends_on_it_is_left_out(world: World) -> None:
    sef = world.sef()
    answer = sef.register_agent("a", {"cutover": {"private_ip": "10.0.0.9"}})
    assert answer["warnings"] == []
