"""A former primary that somebody else would bring back: spot requests, groups and fleets."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from sef.db import tables
from smart_emergency_fallback import SmartEmergencyFallback
from tests.belongings.test_data_that_ends import reason_of
from tests.harness import ALIVE, ONCE, POOL, REBALANCE, TERMINATION, World

REFUSED = "UnauthorizedOperation"

pytestmark = ONCE


def persistent(behavior: str = "terminate") -> dict[str, Any]:
    return {
        "InstanceMarketOptions": {
            "MarketType": "spot",
            "SpotOptions": {
                "SpotInstanceType": "persistent",
                "InstanceInterruptionBehavior": behavior,
            },
        }
    }


def tagged(**tags: str) -> dict[str, Any]:
    listed = [{"Key": key.replace("__", ":"), "Value": value} for key, value in tags.items()]
    return {"TagSpecifications": [{"ResourceType": "instance", "Tags": listed}]}


def switched(world: World, **more: Any) -> tuple[SmartEmergencyFallback, str]:
    sef = world.sef()
    primary = world.primary(sef, **more)
    sef.enable_manual_replica_mode("a")
    sef.execute_manual_switch("a")
    return sef, primary


def request_of(world: World, instance_id: str) -> Any:
    request_id = world.described(instance_id)["SpotInstanceRequestId"]
    answer = world.client.describe_spot_instance_requests(SpotInstanceRequestIds=[request_id])
    return answer["SpotInstanceRequests"][0]


def alive(world: World) -> list[str]:
    """Return the running instances that SEF did not launch."""
    own = {one.id for one in world.tagged()}
    return [i.id for i in world.simulation.instances() if i.state in ALIVE and i.id not in own]


def test_request_is_cancelled_with_its_instance(world: World) -> None:
    sef, primary = switched(world, **persistent())
    world.settle(sef, 60)
    assert request_of(world, primary)["State"] == "cancelled"
    assert alive(world) == []
    [event] = world.events("primary_retired")
    calls = [call["operation"] for call in event.details["calls"]]
    assert calls.index("CancelSpotInstanceRequests") < calls.index("TerminateInstances")


def test_one_time_request_needs_no_cancellation(world: World) -> None:
    world.simulation.add_fault("CancelSpotInstanceRequests", error_code=REFUSED)
    sef, primary = switched(world)
    world.settle(sef, 60)
    assert world.state(primary) not in ALIVE


def test_instance_whose_request_cannot_be_cancelled_is_left_with_a_warning(world: World) -> None:
    world.simulation.add_fault("CancelSpotInstanceRequests", error_code=REFUSED)
    sef, primary = switched(world, **persistent())
    for _ in range(3):
        world.settle(sef, 600)
    assert world.state(primary) == "running"
    request_id = request_of(world, primary)["SpotInstanceRequestId"]
    assert request_id in reason_of(sef, primary)
    [event] = world.events("primary_retired")
    assert event.severity == "warning"
    world.simulation.clear_faults()
    world.settle(sef, 600)
    assert alive(world) == []


def test_without_the_right_to_see_requests_the_instance_ends(world: World) -> None:
    world.simulation.add_fault("DescribeSpotInstanceRequests", error_code=REFUSED)
    sef, primary = switched(world)
    world.settle(sef, 60)
    assert world.state(primary) not in ALIVE
    assert len(world.events("spot_request_unseen")) == 1


@pytest.mark.parametrize(
    ("behavior", "ends"), [("stop", True), ("hibernate", True), ("stop", False)]
)
def test_stopped_primary_that_aws_starts_again_is_looked_after(
    world: World, behavior: str, ends: bool
) -> None:
    sef = world.sef()
    primary = world.primary(sef, **persistent(behavior))
    sef.set_auto_mode("a", "auto-terminate", enabled=ends)
    world.simulation.set_pool(POOL, capacity=False)
    world.signal(sef, TERMINATION, instance_id=primary)
    world.simulation.interrupt(primary, terminate_after_seconds=0)
    assert world.state(primary) == "stopped"
    world.settle(sef, 60)
    if ends:
        assert world.state(primary) == "terminated", "before AWS starts it again"
    else:
        assert "AWS stopped it, and starts it again" in reason_of(sef, primary)
    world.simulation.set_pool(POOL, capacity=True)
    for _ in range(3):
        world.settle(sef, 60)
    assert request_of(world, primary)["State"] == "cancelled"
    assert alive(world) == ([] if ends else [primary])
    if not ends:
        assert "it runs again after AWS interrupted it" in reason_of(sef, primary)
        assert len(world.events("former_primary_runs_again")) == 1
        sef.set_auto_mode("a", "auto-terminate", enabled=True)
        world.settle(sef, 60)
        assert alive(world) == []


def test_primary_that_was_started_before_sef_looked_again_is_ended(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef, **persistent("stop"))
    sef.set_auto_mode("a", "auto-terminate", enabled=True)
    world.signal(sef, TERMINATION, instance_id=primary)
    world.settle(sef, 60)
    assert world.state(primary) == "running"
    # The clock of the simulator stands beside that of the story: the promotion was an hour ago.
    an_hour_ago = world.clock() - timedelta(hours=1)
    world.write(update(tables.retirements).values(since=an_hour_ago))
    world.client.stop_instances(InstanceIds=[primary])
    world.client.start_instances(InstanceIds=[primary])
    world.settle(sef, 60)
    assert world.state(primary) == "terminated"
    assert request_of(world, primary)["State"] == "cancelled"


def test_primary_that_its_owner_stopped_is_left_alone(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef, **persistent("stop"))
    sef.set_auto_mode("a", "auto-terminate", enabled=True)
    world.client.stop_instances(InstanceIds=[primary])
    world.clock.advance(1000)
    assert sef.detect_losses() == 1
    for _ in range(3):
        world.settle(sef, 60)
    assert world.state(primary) == "stopped"
    assert request_of(world, primary)["State"] == "disabled"
    world.client.start_instances(InstanceIds=[primary])
    for _ in range(3):
        world.settle(sef, 60)
    assert world.state(primary) == "running"


@pytest.mark.parametrize("is_lost", [False, True], ids=["interrupted", "lost"])
def test_request_of_a_primary_that_aws_ended_launches_no_other(world: World, is_lost: bool) -> None:
    sef = world.sef()
    primary = world.primary(sef, **persistent())
    world.simulation.set_pool(POOL, capacity=False)
    if is_lost:
        world.simulation.terminate(primary)
        world.clock.advance(1000)
        assert sef.detect_losses() == 1
    else:
        world.signal(sef, TERMINATION, instance_id=primary)
        world.simulation.interrupt(primary, terminate_after_seconds=0)
    world.settle(sef, 60)
    world.settle(sef, 60)
    world.simulation.set_pool(POOL, capacity=True)
    assert alive(world) == []
    assert request_of(world, primary)["State"] == "cancelled"


def test_request_of_a_primary_that_aws_ends_while_it_drains_is_cancelled(world: World) -> None:
    sef = world.sef(drain_seconds=600)
    primary = world.primary(sef, **persistent())
    for mode in ("auto-switch", "auto-terminate"):
        sef.set_auto_mode("a", mode, enabled=True)
    world.signal(sef, REBALANCE, instance_id=primary)
    world.settle(sef, 60)
    assert reason_of(sef, primary) == "its connections drain"
    world.simulation.set_pool(POOL, capacity=False)
    world.simulation.terminate(primary)
    world.settle(sef, 60)
    world.simulation.set_pool(POOL, capacity=True)
    assert alive(world) == []
    assert request_of(world, primary)["State"] == "cancelled"


def test_instance_that_the_request_has_launched_already_is_named(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef, **persistent())
    world.simulation.terminate(primary)
    [launched] = alive(world)
    world.clock.advance(1000)
    assert sef.detect_losses() == 1
    world.settle(sef, 60)
    messages = [event.message for event in world.events("primary_retired")]
    assert any(f"It has launched {launched}" in message for message in messages)
    assert world.state(launched) == "running", "SEF did not launch it"


def test_request_of_a_primary_that_an_operator_replaced_is_left(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef, **persistent())
    sef.register_agent("a", {"instance_id": world.launch()})
    for _ in range(3):
        world.settle(sef, 600)
    assert request_of(world, primary)["State"] == "active"


@pytest.mark.parametrize(
    ("tag", "name", "owner"),
    [
        ("aws__autoscaling__groupName", "web", "the Auto Scaling group web"),
        ("aws__ec2__fleet-id", "fleet-12345678", "the fleet fleet-12345678"),
        ("aws__ec2spot__fleet-request-id", "sfr-1234", "the fleet sfr-1234"),
    ],
)
def test_member_of_a_group_is_left_with_a_warning_that_names_it(
    world: World, tag: str, name: str, owner: str
) -> None:
    for action in ("DescribeFleets", "DescribeSpotFleetRequests"):
        world.simulation.add_fault(action, error_code=REFUSED)
    sef, primary = switched(world, **tagged(**{tag: name}))
    for _ in range(3):
        world.settle(sef, 600)
    assert world.state(primary) == "running"
    assert owner in reason_of(sef, primary)
    [event] = world.events("primary_retired")
    assert owner in event.message
    sef.adopt_instance("a", primary, "surplus")
    assert world.state(primary) not in ALIVE


@pytest.mark.parametrize(("kind", "is_left"), [("maintain", True), ("request", False)])
def test_only_a_fleet_that_maintains_its_capacity_keeps_its_instance(
    world: World, kind: str, is_left: bool
) -> None:
    template = {"LaunchTemplateName": "sef-default", "Version": "1"}
    fleet = world.client.create_fleet(
        Type=kind,  # type: ignore[arg-type]
        LaunchTemplateConfigs=[{"LaunchTemplateSpecification": template}],
        TargetCapacitySpecification={"TotalTargetCapacity": 1},
    )["FleetId"]
    sef, primary = switched(world, **tagged(**{"aws__ec2__fleet-id": fleet}))
    world.settle(sef, 600)
    assert (world.state(primary) == "running") == is_left


def test_registration_names_the_group_of_the_primary(world: World) -> None:
    sef = world.sef()
    primary = world.launch(**tagged(aws__autoscaling__groupName="web"))
    answer = sef.register_agent("a", {"instance_id": primary})
    assert any("the Auto Scaling group web" in warning for warning in answer["warnings"])
