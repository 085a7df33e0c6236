"""SEF terminates former primaries only if they carry its own tags."""

from typing import Any

import pytest

from tests.harness import ALIVE, ONCE, World


def launch_tagged(world: World, **tags: str) -> str:
    spec = [{"Key": key.replace("_", ":"), "Value": value} for key, value in tags.items()]
    return world.launch(TagSpecifications=[{"ResourceType": "instance", "Tags": spec}])


def switch_away_from(world: World, old: str) -> Any:
    """Register an instance as primary, and switch to a standby by hand."""
    sef = world.sef()
    sef.register_agent("a", {"instance_id": old, "pool_id": world.pool_of(old)})
    sef.enable_manual_replica_mode("a")
    sef.execute_manual_switch("a")
    return sef


def tags_of(world: World, instance_id: str) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in world.described(instance_id).get("Tags", [])}


def test_a_registered_instance_is_tagged_before_it_is_terminated(world: World) -> None:
    old = launch_tagged(world, Name="web")
    switch_away_from(world, old)
    assert world.state(old) not in ALIVE
    [name] = [row.name for row in world.rows("deployment", None)]
    tags = tags_of(world, old)
    assert (tags["sef:managed"], tags["sef:agent"], tags["Name"]) == (name, "a", "web")
    world.check()


@ONCE
@pytest.mark.parametrize(
    "tags", [{"sef_managed": "sef-of-others"}, {"sef_agent": "web-7"}], ids=["sef", "agent"]
)
def test_a_former_primary_with_foreign_tags_is_left_running(
    world: World, tags: dict[str, str]
) -> None:
    old = launch_tagged(world, **tags)
    sef = switch_away_from(world, old)
    world.settle(sef, 3600)
    assert world.state(old) == "running"
    [event] = world.events("primary_retired")
    assert event.severity == "warning"
    assert "left running: its tag sef:" in event.message
    world.check()


@ONCE
def test_a_former_primary_that_cannot_be_tagged_is_left_running(world: World) -> None:
    old = world.launch()
    world.simulation.add_fault("CreateTags", error_code="UnauthorizedOperation")
    switch_away_from(world, old)
    assert world.state(old) == "running"
    [event] = world.events("primary_retired")
    assert "UnauthorizedOperation" in event.message


@ONCE
def test_throttled_tagging_is_retried(world: World) -> None:
    old = world.launch()
    world.simulation.throttle("CreateTags", count=4)
    sef = switch_away_from(world, old)
    assert world.state(old) == "running"
    for _ in range(5):
        world.settle(sef, 10)
    assert world.state(old) not in ALIVE
    world.check()
