"""The registration and the dry run name beforehand what the switch will be refused for good."""

from collections.abc import Callable
from typing import Any

import pytest

from sef.cloud.clients import Clients
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import SAME_ZONE, Belongings, fail_over, owner
from tests.harness import ONCE, OTHERS, REBALANCE, World

# On the façade, with the standby that there is


def warned(sef: SmartEmergencyFallback, **targets: Any) -> list[str]:
    return list(sef.register_agent("a", {"cutover": targets})["warnings"])


def first_interface(world: World, belongings: Belongings) -> Any:
    return belongings.interface(world.agent().instance_id)


def root_volume(world: World, belongings: Belongings) -> Any:
    [root] = [
        mapping["Ebs"]["VolumeId"]
        for mapping in world.described(world.agent().instance_id)["BlockDeviceMappings"]
        if mapping["DeviceName"] in ("/dev/sda1", "/dev/xvda")
    ]
    return {"volumes": [{"id": root, "device": "/dev/sdh"}]}


def eth0(world: World, belongings: Belongings) -> Any:
    interface = first_interface(world, belongings)
    return {"network_interface": {"id": interface["NetworkInterfaceId"]}}


def first_address(world: World, belongings: Belongings) -> Any:
    return {"private_ip": first_interface(world, belongings)["PrivateIpAddress"]}


def reserved(world: World, belongings: Belongings) -> Any:
    subnet = first_interface(world, belongings)["SubnetId"]
    block = belongings.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["CidrBlock"]
    return {"private_ip": f"{block.rpartition('.')[0]}.1"}


def used_device(world: World, belongings: Belongings) -> Any:
    standby = world.standby()
    assert standby is not None
    other = belongings.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    belongings.ec2.attach_volume(VolumeId=other, InstanceId=standby.instance_id, Device="/dev/xvdf")
    return belongings.targets


def used_index(world: World, belongings: Belongings) -> Any:
    standby = world.standby()
    assert standby is not None
    subnet = first_interface(world, belongings)["SubnetId"]
    other = belongings.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]
    belongings.ec2.attach_network_interface(
        NetworkInterfaceId=other["NetworkInterfaceId"],
        InstanceId=standby.instance_id,
        DeviceIndex=3,
    )
    return {"network_interface": {"id": belongings.interface_id, "device_index": 3}}


@pytest.mark.parametrize(
    ("names", "targets_of", "problem"),
    [
        ([], root_volume, "it is the root volume of the primary"),
        ([], eth0, "it is the first interface of"),
        ([], first_address, "is the primary address of"),
        ([], reserved, "is reserved by AWS"),
        (["volumes"], used_device, "/dev/sdf of the standby"),
        (["network_interface"], used_index, "device index 3 of the standby"),
    ],
)
@ONCE
def test_what_the_switch_is_refused_for_is_said_before(
    world: World,
    names: list[str],
    targets_of: Callable[[World, Belongings], Any],
    problem: str,
) -> None:
    sef = world.sef(spot_pools=",".join(SAME_ZONE))
    primary = world.primary(sef)
    belongings = Belongings(world, primary, *(names or ["dns"]))
    sef.enable_manual_replica_mode("a")
    targets = targets_of(world, belongings)
    assert any(problem in one for one in warned(sef, **targets))
    assert any(problem in one for one in sef.execute_manual_switch("a", dry_run=True)["warnings"])


@ONCE
def test_standby_in_another_zone_is_warned_of(world: World) -> None:
    sef = world.sef(spot_pools=",".join(OTHERS))
    primary = world.primary(sef)
    belongings = Belongings(world, primary, "volumes")
    sef.enable_manual_replica_mode("a")
    standby = world.standby()
    assert standby is not None
    volume = belongings.targets["volumes"][0]["id"]
    there = f"volumes {volume} cannot follow to the standby {standby.instance_id}"
    assert any(one.startswith(there) for one in warned(sef, **belongings.targets))
    planned = sef.execute_manual_switch("a", dry_run=True)["warnings"]
    assert any("it cannot leave its zone" in one for one in planned)
    kept = f"{primary} keeps running after the switch: it still has volume"
    assert any(one.startswith(kept) for one in planned)


def edited(world: World, operation: str, edit: Callable[[Any], None]) -> Clients:
    """Return clients that see other answers of one operation of EC2, or of each with ""."""
    clients = Clients("us-east-1", world.simulation.endpoint, simulated=True)
    event = f"after-call.ec2.{operation}".removesuffix(".")
    clients.ec2.meta.events.register(event, lambda parsed, **_: edit(parsed))
    return clients


def multi_attach(answer: Any) -> None:
    answer["Volumes"][0]["MultiAttachEnabled"] = True


def of_a_nat_gateway(answer: Any) -> None:
    for interface in answer["NetworkInterfaces"]:
        interface |= {"RequesterManaged": True, "InterfaceType": "nat_gateway"}


def of_a_local_zone(answer: Any) -> None:
    for address in answer.get("Addresses", []):
        address["NetworkBorderGroup"] = "us-east-1-bos-1"
    for zone in answer.get("AvailabilityZones", []):
        zone["NetworkBorderGroup"] = "us-east-1"


def of_its_owner(answer: Any) -> None:
    answer["Addresses"][0] |= {
        "NetworkBorderGroup": "us-east-1",
        "PublicIpv4Pool": "ipv4pool-ec2-1",
    }


@pytest.mark.parametrize(
    ("name", "operation", "edit", "problem"),
    [
        ("volumes", "DescribeVolumes", multi_attach, "it has Multi-Attach"),
        ("network_interface", "DescribeNetworkInterfaces", of_a_nat_gateway, "nat_gateway"),
        ("private_ip", "DescribeNetworkInterfaces", of_a_nat_gateway, "a service of AWS manages"),
        ("elastic_ip", "DescribeAddresses", of_its_owner, None),
        ("elastic_ip", "", of_a_local_zone, "border group is us-east-1-bos-1"),
    ],
)
@ONCE
def test_resource_that_aws_keeps_is_said_before(
    world: World, name: str, operation: str, edit: Callable[[Any], None], problem: str | None
) -> None:
    _, _, belongings = owner(world, name)
    sef = world.sef(clients=edited(world, operation, edit))
    given = warned(sef, **belongings.targets)
    assert given == [] if problem is None else any(problem in one for one in given)


# Where the targets are


@ONCE
def test_target_that_is_elsewhere_is_warned_of(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "volumes")
    stranger = world.launch()
    belongings.ec2.associate_address(
        AllocationId=belongings.allocation_id,
        NetworkInterfaceId=belongings.interface(stranger)["NetworkInterfaceId"],
        AllowReassociation=True,
    )
    belongings.ec2.detach_volume(VolumeId=belongings.volume_id)
    given = warned(sef, **belongings.targets)
    at_a_stranger, at_nobody = given
    assert f"is at {stranger}, which was never the primary" in at_a_stranger
    assert "SEF leaves it there, also at a promotion" in at_a_stranger
    assert f"is at no instance, not at your primary {primary}" in at_nobody
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    planned = world.signal(sef, REBALANCE, instance_id=primary, dry_run=True)["warnings"]
    assert planned == given


@ONCE
def test_target_at_the_primary_of_another_agent_is_warned_of(world: World) -> None:
    sef, _, belongings = owner(world, "elastic_ip", "target_groups", "dns")
    other = world.primary(sef, "b")
    sef.register_agent("a", {"instance_id": world.launch()})
    belongings.write_record(belongings.interface(other)["PrivateIpAddress"])
    given = warned(sef, **belongings.targets)
    assert len(given) == 1, "an open cutover moves the others"
    assert f"is at {other}, which serves b" in given[0]


@ONCE
def test_target_that_an_open_cutover_is_moving_is_not_warned_of(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "dns", probation_seconds=0)
    world.simulation.add_fault("AssociateAddress", error_code="UnauthorizedOperation")
    fail_over(world, sef, primary)
    assert warned(sef, **belongings.targets) == []


@ONCE
def test_interface_and_the_address_on_it_of_two_agents_are_warned_of(world: World) -> None:
    sef, _, belongings = owner(world, "network_interface")
    address = belongings.ec2.allocate_address(Domain="vpc")["AllocationId"]
    belongings.ec2.associate_address(
        AllocationId=address, NetworkInterfaceId=belongings.interface_id
    )
    world.primary(sef, "b")
    answer = sef.register_agent("b", {"cutover": {"elastic_ip": address}})
    on_it = f"cutover: {address} is on {belongings.interface_id}"
    assert any(one.startswith(on_it) and "a target of a" in one for one in answer["warnings"])

    def with_its_address(answer: Any) -> None:
        for interface in answer["NetworkInterfaces"]:
            interface["PrivateIpAddresses"][0]["Association"] = {"AllocationId": address}

    sef = world.sef(clients=edited(world, "DescribeNetworkInterfaces", with_its_address))
    [back] = [one for one in warned(sef, **belongings.targets) if one.startswith(on_it)]
    assert "a target of b" in back


# The old primary


@ONCE
def test_dry_run_of_a_switch_names_what_keeps_the_old_primary(world: World) -> None:
    sef, primary, belongings = owner(world, "volumes")
    sef.enable_manual_replica_mode("a")
    standby = world.standby()
    assert standby is not None
    warned(sef, **belongings.targets)
    assert sef.execute_manual_switch("a", dry_run=True)["warnings"] == []
    used_device(world, belongings)
    planned = sef.execute_manual_switch("a", dry_run=True)["warnings"]
    kept = f"{primary} keeps running after the switch: it still has volume {belongings.volume_id}"
    assert any(one.startswith(kept) for one in planned)
    sef.register_agent("b", {"instance_id": primary})
    planned = sef.execute_manual_switch("a", dry_run=True)["warnings"]
    assert any("it is the primary of b" in one for one in planned)


# Beside the targets


@pytest.mark.parametrize(
    ("template", "warning"),
    [
        ("sef-default", None),
        ("sef-default:1", None),
        ("no-such-template", "launch_template: InvalidLaunchTemplateName.NotFound"),
        ("sef-default:99", "launch_template: "),
    ],
)
@ONCE
def test_launch_template_is_checked(world: World, template: str, warning: str | None) -> None:
    answer = world.sef().register_agent("a", {"launch_template": template})
    assert answer["agent"]["launch_template"] == template
    if warning is None:
        assert answer["warnings"] == []
    else:
        [given] = answer["warnings"]
        assert given.startswith(warning)


@pytest.mark.parametrize(
    ("url", "networks", "warning"),
    [
        ("http://127.0.0.1:9/hook", "", "127.0.0.1, a private, link-local or reserved address"),
        ("http://10.1.2.3/hook", "", "SEF_ALLOWED_PRIVATE_NETWORKS can allow it"),
        ("http://169.254.169.254/latest", "", "a private, link-local or reserved address"),
        ("http://localhost/hook?secret", "", "localhost resolves to"),
        ("http://10.1.2.3/hook", "10.1.0.0/16", None),
    ],
)
@ONCE
def test_webhook_that_sef_will_not_call_is_warned_of(
    world: World, url: str, networks: str, warning: str | None
) -> None:
    sef = world.sef(allowed_private_networks=networks)
    given = warned_of_hooks(sef, url)
    if warning is None:
        assert given == []
    else:
        [text] = given
        assert text.startswith("cutover.webhooks.after: ")
        assert warning in text
        assert "secret" not in text


def warned_of_hooks(sef: SmartEmergencyFallback, url: str) -> list[str]:
    return warned(sef, webhooks={"after": url})
