"""An exception in one step of an agent ends this step only, and people are told once."""

from typing import Any

import pytest
from sqlalchemy import update

from sef.db import tables
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import owner
from tests.harness import ONCE, TERMINATION, World


def with_a_broken_cutover(world: World, target: Any) -> tuple[SmartEmergencyFallback, str]:
    """Return SEF and the primary of an agent whose cutover raises an exception in each pass."""
    sef, primary, _ = owner(world, "dns", probation_seconds=0)
    world.simulation.add_fault("ChangeResourceRecordSets", error_code="AccessDenied")
    new = world.signal(sef, TERMINATION, instance_id=primary)["new_instance_id"]
    steps = tables.cutover_steps
    world.write(update(steps).where(steps.c.kind == "dns").values(target=target))
    world.write(update(tables.agents).values(cutover={"dns": target}))
    return sef, new


@ONCE
@pytest.mark.parametrize("target", [{}, {"address": 7}, "web.example.com"], ids=str)
def test_a_cutover_that_raises_does_not_keep_the_launch_from_running(
    world: World, target: Any
) -> None:
    sef, primary = with_a_broken_cutover(world, target)
    world.settle(sef, 60)
    assert world.events("internal_error")
    world.signal(sef, TERMINATION, instance_id=primary)
    for _ in range(3):
        world.settle(sef, 10)
    assert world.agent().instance_id != primary
    assert world.agent().epoch == 3


@ONCE
def test_other_agents_are_served_in_the_same_pass(world: World) -> None:
    sef, _ = with_a_broken_cutover(world, {})
    other = world.primary(sef, "b")
    world.signal(sef, TERMINATION, "b", instance_id=other)
    world.settle(sef, 5)
    assert world.agent("b").instance_id != other


@ONCE
def test_the_failure_is_told_once(world: World) -> None:
    sef, _ = with_a_broken_cutover(world, {})
    for _ in range(20):
        world.settle(sef, 5)
    [event] = world.events("internal_error")
    assert event.details["step"] == "advance_cutover"
    assert [n.kind for n in world.rows("notifications") if "internal error" in n.title] == ["alert"]
