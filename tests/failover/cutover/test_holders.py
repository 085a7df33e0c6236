"""The look-up of the instances that hold the cutover targets."""

from typing import Any

import pytest

from sef.cloud.errors import CloudError
from sef.failover.cutover.holders import Holders, holders_of
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import fail_over, owner
from tests.harness import ONCE, World


def held(sef: SmartEmergencyFallback, targets: Any, *instances: str) -> Holders:
    return holders_of(sef._context, targets, instances)


def names(targets: Any) -> list[str]:
    return sorted(
        [
            f"elastic-ip {targets['elastic_ip']}",
            f"private-ip {targets['private_ip']}",
            f"network-interface {targets['network_interface']['id']}",
            f"volume {targets['volumes'][0]['id']}",
            f"target-group {targets['target_groups'][0]['arn']}",
            f"dns {targets['dns']['name']}",
        ]
    )


@ONCE
def test_every_target_is_found_with_its_holder_before_and_after_a_failover(world: World) -> None:
    sef, primary, _ = owner(world)
    targets = world.agent().cutover
    other = world.launch()
    holders = held(sef, targets, primary, other)
    assert holders.held_by(primary) == names(targets)
    assert holders.held_by(other) == holders.unknown() == []
    new = fail_over(world, sef, primary)
    holders = held(sef, targets, primary, new)
    assert holders.held_by(new) == names(targets)
    assert holders.held_by(primary) == []


@ONCE
def test_holder_that_was_not_asked_for_is_no_holder(world: World) -> None:
    sef, _, _ = owner(world)
    targets = world.agent().cutover
    holders = held(sef, targets, world.launch())
    assert set(holders.by_target.values()) == {frozenset()}


@ONCE
def test_target_that_aws_does_not_know_or_show_has_unknown_holders(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "volumes")
    world.simulation.add_fault("DescribeVolumes", error_code="UnauthorizedOperation")
    targets = {**belongings.targets, "elastic_ip": "eipalloc-0123456789abcdef0"}
    holders = held(sef, targets, primary)
    assert holders.unknown() == [
        "elastic-ip eipalloc-0123456789abcdef0",
        f"volume {belongings.volume_id}",
    ]
    assert holders.held_by(primary) == []


@ONCE
def test_throttled_look_up_is_an_error(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip")
    world.simulation.throttle("DescribeAddresses", count=10)
    with pytest.raises(CloudError):
        held(sef, belongings.targets, primary)
