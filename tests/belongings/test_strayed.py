"""A target that strays from the primary is found, told once, and moved back if that is allowed."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from sef.db import tables
from sef.failover.cutover.straying import Seen, Stray, compare
from smart_emergency_fallback import SmartEmergencyFallback
from tests.belongings.test_who_holds_it import move, put
from tests.failover.cutover.cutover_targets import Belongings, cutover_of, fail_over, owner
from tests.harness import ONCE, REBALANCE, World

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = 3600 * 1.2
MINUTE = 61

# The comparison of two looks


def seen(*holders: str, problem: str | None = None) -> dict[str, Seen]:
    return {"t": Seen(frozenset(holders), problem)}


def stray(*holders: str, told: bool = False) -> dict[str, Stray]:
    return {"t": Stray(list(holders), None, "then", told)}


@pytest.mark.parametrize(
    ("before", "now", "is_elsewhere", "is_told", "returned"),
    [
        ({}, seen("p"), False, False, []),
        ({}, seen("p", "x"), False, False, []),
        ({}, seen(), True, False, []),
        ({}, seen("x"), True, False, []),
        ({}, seen(problem="UnauthorizedOperation"), True, False, []),
        (stray("x"), seen("x"), True, True, []),
        (stray(), seen(), True, True, []),
        (stray("x"), seen("y"), True, False, []),
        (stray("x"), seen("p"), False, False, []),
        (stray("x", told=True), seen("x"), True, False, []),
        (stray("x", told=True), seen("p"), False, False, ["t"]),
        (stray("x", told=True), {}, False, False, []),
    ],
)
def test_look_is_compared_with_the_one_before(
    before: dict[str, Stray],
    now: dict[str, Seen],
    is_elsewhere: bool,
    is_told: bool,
    returned: list[str],
) -> None:
    outcome = compare(before, now, "p", NOW)
    assert ("t" in outcome.elsewhere, "t" in outcome.told) == (is_elsewhere, is_told)
    assert outcome.returned == returned
    again = compare(outcome.elsewhere, now, "p", NOW + timedelta(hours=1))
    assert again.told.keys() <= outcome.elsewhere.keys() - outcome.told.keys()


# On the façade


def looked(world: World, sef: SmartEmergencyFallback, hours: int = 1) -> None:
    """Let the time of looks pass, each with the one that confirms it."""
    for _ in range(hours):
        world.settle(sef, HOUR)
        world.settle(sef, MINUTE)


def restart_with_the_address(world: World, belongings: Belongings, old: str) -> str:
    """Let the user data of the old primary take its address back when it boots."""
    move(world, belongings, "elastic_ip", old)
    return f"elastic-ip {belongings.allocation_id} is at {old}"


def move_by_hand(world: World, belongings: Belongings, old: str) -> str:
    stranger = world.launch()
    move(world, belongings, "elastic_ip", stranger)
    return f"elastic-ip {belongings.allocation_id} is at {stranger}, which was never"


def detach(world: World, belongings: Belongings, old: str) -> str:
    belongings.ec2.detach_volume(VolumeId=belongings.volume_id)
    return f"volume {belongings.volume_id} is at no instance"


def write_record(world: World, belongings: Belongings, old: str) -> str:
    belongings.write_record("192.0.2.9")
    return f"dns {belongings.name} is at no instance"


def deregister(world: World, belongings: Belongings, old: str) -> str:
    targets: Any = [{"Id": world.agent().instance_id}]
    belongings.elbv2.deregister_targets(TargetGroupArn=belongings.arn, Targets=targets)
    return f"is not registered in target-group {belongings.arn}"


Straying = Callable[[World, Belongings, str], str]
WAYS = [
    pytest.param("elastic_ip", restart_with_the_address, True, id="boot"),
    pytest.param("elastic_ip", move_by_hand, False, id="hand"),
    pytest.param("volumes", detach, True, id="detached"),
    pytest.param("dns", write_record, True, id="record"),
    pytest.param("target_groups", deregister, True, id="group"),
]


def switched(world: World, name: str, **settings: Any) -> Any:
    """Return SEF, its belongings, the old primary that runs on, and the new one."""
    sef, old, belongings = owner(world, name, probation_seconds=0, **settings)
    sef.set_auto_mode("a", "auto-switch", enabled=True)  # which leaves the old primary running
    world.signal(sef, REBALANCE, instance_id=old)
    world.settle(sef, 10)
    new = world.agent().instance_id
    assert belongings.held(new) == {name}
    return sef, belongings, old, new


@pytest.mark.parametrize(("name", "stray_by", "is_restorable"), WAYS)
@ONCE
def test_strayed_target_is_told_once(
    world: World, name: str, stray_by: Straying, is_restorable: bool
) -> None:
    sef, belongings, old, _ = switched(world, name)
    looked(world, sef)
    assert world.events("target_strayed") == []
    assert sef.get_agent_status("a")["targets"]["elsewhere"] == []
    where = stray_by(world, belongings, old)
    looked(world, sef, hours=3)
    [event] = world.events("target_strayed")
    assert where in event.message
    assert ("SEF_RESTORE_TARGETS" in event.message) is is_restorable
    [told] = world.rows("notifications")[-1:]
    assert where in told.body
    [elsewhere] = sef.get_agent_status("a")["targets"]["elsewhere"]
    assert elsewhere["target"] == event.details["target"]
    assert cutover_of(sef)["status"] == "done", "SEF moves nothing unless it is allowed to"


@pytest.mark.parametrize(("name", "stray_by", "is_restorable"), WAYS[1:3] + WAYS[4:])
@ONCE
def test_strayed_target_is_moved_back_where_that_is_allowed(
    world: World, name: str, stray_by: Straying, is_restorable: bool
) -> None:
    sef, belongings, old, new = switched(world, name, restore_targets=True)
    looked(world, sef)
    stray_by(world, belongings, old)
    looked(world, sef)
    world.settle(sef, 10)
    assert belongings.held(new) == ({name} if is_restorable else set())
    assert cutover_of(sef)["status"] == "done"
    looked(world, sef, hours=2)
    assert len(world.events("target_strayed")) == 1
    assert len(world.events("target_returned")) == int(is_restorable)
    stray_by(world, belongings, old)
    looked(world, sef)
    world.settle(sef, 10)
    assert len(world.events("target_strayed")) == 2, "another time is another matter"


@ONCE
def test_target_of_the_first_primary_is_moved_back_too(world: World) -> None:
    sef, primary, belongings = owner(world, "volumes", "elastic_ip", restore_targets=True)
    belongings.ec2.detach_volume(VolumeId=belongings.volume_id)
    looked(world, sef)
    world.settle(sef, 10)
    assert belongings.held(primary) == {"volumes", "elastic_ip"}
    assert world.agent().epoch == 1


@ONCE
def test_move_that_takes_a_moment_is_not_told(world: World) -> None:
    sef, primary, belongings = owner(world, "volumes")
    belongings.ec2.detach_volume(VolumeId=belongings.volume_id)
    world.settle(sef, HOUR)
    belongings.ec2.attach_volume(
        VolumeId=belongings.volume_id, InstanceId=primary, Device="/dev/sdf"
    )
    looked(world, sef)
    assert world.events("target_strayed") == world.events("target_returned") == []


@ONCE
def test_target_that_sef_may_not_see_is_told_once(world: World) -> None:
    sef, _, _ = owner(world, "volumes", "elastic_ip")
    world.simulation.add_fault("DescribeVolumes", error_code="UnauthorizedOperation")
    looked(world, sef, hours=3)
    [event] = world.events("target_strayed")
    assert "SEF cannot see where volume" in event.message


@ONCE
def test_look_that_aws_throttles_is_made_later(world: World) -> None:
    sef, _, belongings = owner(world, "volumes")
    belongings.ec2.detach_volume(VolumeId=belongings.volume_id)
    world.simulation.throttle("DescribeVolumes")
    looked(world, sef)
    assert world.events("cloud_unavailable") == []
    world.simulation.clear_faults()
    for _ in range(2):
        world.settle(sef, 301)
    assert len(world.events("target_strayed")) == 1


@ONCE
def test_look_that_a_wrong_clock_has_put_off_is_made(world: World) -> None:
    sef, _, _ = owner(world, "volumes")
    far = world.clock() + timedelta(days=3650)
    world.write(update(tables.target_looks).values(due_at=far))
    world.settle(sef)
    [row] = world.rows("target_looks")
    assert row.due_at < far - timedelta(days=3000)


@ONCE
def test_no_look_without_an_interval(world: World) -> None:
    sef, _, belongings = owner(world, "volumes", target_check_interval_seconds=0)
    belongings.ec2.detach_volume(VolumeId=belongings.volume_id)
    looked(world, sef, hours=3)
    assert world.events("target_strayed") == []
    assert sef.reconcile() == 0


@ONCE
def test_no_look_while_a_cutover_is_open_or_without_targets(world: World) -> None:
    sef, primary, _ = owner(world, "elastic_ip", probation_seconds=0)
    world.simulation.add_fault("AssociateAddress", error_code="UnauthorizedOperation")
    fail_over(world, sef, primary)
    looked(world, sef, hours=2)
    assert cutover_of(sef)["status"] == "needs_operator"
    assert world.events("target_strayed") == []
    put(sef, "a")
    assert world.rows("target_looks") == []
    assert sef.get_agent_status("a")["targets"] is None


@ONCE
def test_private_address_whose_vpc_is_learned_is_claimed_there(world: World) -> None:
    sef = world.sef()
    primary = world.launch()
    belongings = Belongings(world, primary, "private_ip")
    world.simulation.add_fault("DescribeInstances", error_code="UnauthorizedOperation")
    put(sef, "a", **belongings.targets)
    sef.register_agent("a", {"instance_id": primary})
    world.simulation.clear_faults()
    looked(world, sef)
    [claim] = world.rows("target_claims")
    assert claim.target.split(" ")[1] == world.described(primary)["VpcId"]
