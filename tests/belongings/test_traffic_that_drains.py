"""Without a deadline, a former primary stays while traffic may still reach it."""

from datetime import timedelta
from typing import Any

import pytest

from smart_emergency_fallback import SmartEmergencyFallback
from tests.belongings.test_data_that_ends import reason_of
from tests.failover.cutover.cutover_targets import Belongings, cutover_of, fail_over, owner
from tests.harness import ALIVE, ONCE, REBALANCE, World

REFUSED = "UnauthorizedOperation"

pytestmark = ONCE


def by_hand(world: World, sef: SmartEmergencyFallback, primary: str) -> None:
    sef.enable_manual_replica_mode("a")
    sef.execute_manual_switch("a")


def by_recommendation(world: World, sef: SmartEmergencyFallback, primary: str) -> None:
    for mode in ("auto-switch", "auto-terminate"):
        sef.set_auto_mode("a", mode, enabled=True)
    world.signal(sef, REBALANCE, instance_id=primary)


@pytest.mark.parametrize("switch", [by_hand, by_recommendation], ids=lambda way: way.__name__)
def test_old_primary_stays_while_its_targets_drain(world: World, switch: Any) -> None:
    sef, primary, _ = owner(world, "target_groups")
    world.simulation.set_options(draining_seconds=10**6)
    switch(world, sef, primary)
    for _ in range(4):
        world.settle(sef, 300)
    assert cutover_of(sef)["status"] == "done"
    assert world.state(primary) == "running"
    assert "drain in target group web-" in reason_of(sef, primary)
    world.simulation.set_options(draining_seconds=0)
    world.settle(sef, 11)
    assert world.state(primary) not in ALIVE


def test_drain_time_of_the_settings_is_a_minimum(world: World) -> None:
    sef, primary, _ = owner(world, "target_groups", drain_seconds=500)
    by_recommendation(world, sef, primary)
    world.settle(sef, 400)
    assert world.state(primary) == "running"
    assert reason_of(sef, primary) == "its connections drain"
    world.settle(sef, 101)
    assert world.state(primary) not in ALIVE


@pytest.mark.parametrize(
    ("delay", "refused"),
    [(120, ()), (300, ("DescribeTargetGroupAttributes",))],
    ids=["delay of the group", "default delay"],
)
def test_delay_counts_if_the_health_cannot_be_read(
    world: World, delay: int, refused: tuple[str, ...]
) -> None:
    sef, primary, belongings = owner(world, "target_groups")
    belongings.elbv2.modify_target_group_attributes(
        TargetGroupArn=belongings.arn,
        Attributes=[{"Key": "deregistration_delay.timeout_seconds", "Value": "120"}],
    )
    world.simulation.set_options(draining_seconds=10**6)
    by_hand(world, sef, primary)
    assert cutover_of(sef)["status"] == "done"
    for action in ("DescribeTargetHealth", *refused):
        world.simulation.add_fault(action, error_code="AccessDenied")
    world.settle(sef, delay - 5)
    assert world.state(primary) == "running"
    assert "may drain in target group" in reason_of(sef, primary)
    world.settle(sef, 6)
    assert world.state(primary) not in ALIVE


def test_group_that_was_removed_after_the_switch_drains_too(world: World) -> None:
    sef, primary, _ = owner(world, "target_groups")
    world.simulation.set_options(draining_seconds=10**6)
    by_hand(world, sef, primary)
    sef.register_agent("a", {"cutover": None})
    world.settle(sef, 60)
    assert world.state(primary) == "running"
    assert "drain in target group" in reason_of(sef, primary)


@pytest.mark.parametrize("ttl", [None, 200])
def test_old_primary_stays_while_caches_hold_its_address(world: World, ttl: int | None) -> None:
    sef, primary, belongings = owner(world, "dns")
    belongings.write_record(belongings.interface(primary)["PrivateIpAddress"], ttl=200)
    sef.register_agent("a", {"cutover": {"dns": belongings.targets["dns"] | {"ttl": ttl}}})
    by_hand(world, sef, primary)
    world.settle(sef, 190)
    assert world.state(primary) == "running"
    assert "caches may hold its address" in reason_of(sef, primary)
    world.settle(sef, 11)
    assert world.state(primary) not in ALIVE


@pytest.mark.parametrize(("left", "says"), [(100, "ends in"), (None, "has ended")])
def test_event_says_what_a_deadline_cuts_off(world: World, left: int | None, says: str) -> None:
    sef, primary, _ = owner(world, "target_groups")
    world.simulation.set_options(draining_seconds=10**6)
    if left is None:
        world.simulation.terminate(primary)
        world.clock.advance(1000)
        assert sef.detect_losses() == 1
        world.settle(sef, 1)
    else:
        end = (world.clock() + timedelta(seconds=left)).isoformat()
        fail_over(world, sef, primary, termination_time=end)
    assert cutover_of(sef)["status"] == "done"
    [event] = [e for e in world.events("cutover_step") if e.details["kind"] == "deregister"]
    assert says in event.message
    assert event.severity == "warning"


def test_calm_deregistration_cuts_nothing(world: World) -> None:
    sef, primary, _ = owner(world, "target_groups")
    by_hand(world, sef, primary)
    [event] = [e for e in world.events("cutover_step") if e.details["kind"] == "deregister"]
    assert event.severity == "info"


def test_registration_again_ends_the_drain(world: World) -> None:
    """The former primary is put back, and replaced once more."""
    sef, primary, belongings = owner(world, "target_groups")
    world.simulation.set_options(draining_seconds=10**6)
    by_hand(world, sef, primary)
    second = str(world.agent().instance_id)
    sef.register_agent("a", {"instance_id": primary})
    world.settle(sef, 5)
    assert primary in _healthy(belongings)
    assert second not in _healthy(belongings)


def _healthy(belongings: Belongings) -> list[str]:
    health = belongings.elbv2.describe_target_health(TargetGroupArn=belongings.arn)
    return [
        target["Target"]["Id"]
        for target in health["TargetHealthDescriptions"]
        if target["TargetHealth"]["State"] == "healthy"
    ]
