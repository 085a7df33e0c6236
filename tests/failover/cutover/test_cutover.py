"""After a promotion, what belongs to the agent follows its new primary."""

from datetime import timedelta
from typing import Any

import pytest

from tests.failover.cutover.cutover_targets import ALL, cutover_of, owner, steps_of
from tests.harness import ALIVE, ONCE, OTHERS, REBALANCE, TERMINATION, World

REFUSED = "UnauthorizedOperation"


def test_all_of_it_follows_in_an_emergency(world: World) -> None:
    sef, primary, belongings = owner(world)
    assert belongings.held(primary) == ALL
    new = world.signal(sef, TERMINATION, instance_id=primary)["new_instance_id"]
    assert belongings.held(new) == ALL
    assert belongings.registered() == [new]
    told = cutover_of(sef)
    assert told["status"] == "done"
    assert (told["old_instance_id"], told["new_instance_id"]) == (primary, new)
    assert told["epoch"] == world.agent().epoch == 2
    assert all(step["latency_ms"] is not None for step in told["steps"])
    [completed] = world.events("cutover_completed")
    assert completed.incident_id == told["incident_id"]
    world.check()


def test_it_follows_a_switch_and_the_old_primary_is_kept_till_then(world: World) -> None:
    sef, primary, belongings = owner(world)
    sef.enable_manual_replica_mode("a")
    world.simulation.set_options(healthy_after_seconds=1000)
    new = sef.execute_manual_switch("a")["new_instance_id"]
    # The instance that is to serve is not healthy yet: traffic is not handed over.
    assert belongings.held(primary) == {"elastic_ip", "dns", "target_groups"}
    for _ in range(3):
        world.settle(sef, 60)
    assert world.state(primary) == "running"
    assert cutover_of(sef)["served_at"] is None
    world.simulation.set_options(healthy_after_seconds=0)
    world.settle(sef, 60)
    assert belongings.held(new) == ALL
    assert belongings.registered() == [new]
    assert cutover_of(sef)["status"] == "done"
    assert world.state(primary) not in ALIVE
    world.check()


def test_an_agent_without_targets_has_no_cutover(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=primary)
    assert cutover_of(sef) is None
    assert world.rows("cutovers") == []


@ONCE
def test_with_seconds_left_it_is_moved_at_once(world: World) -> None:
    sef, primary, belongings = owner(world)
    world.simulation.set_options(healthy_after_seconds=1000)
    end = (world.clock() + timedelta(seconds=5)).isoformat()
    answer = world.signal(sef, TERMINATION, instance_id=primary, termination_time=end)
    new = answer["new_instance_id"]
    assert belongings.held(new) == ALL
    assert belongings.registered() == [new]
    assert cutover_of(sef)["status"] == "done"
    assert steps_of(sef)["healthy"] == "skipped"


@ONCE
def test_an_unhealthy_target_is_awaited_as_long_as_the_deadline_allows(world: World) -> None:
    sef, primary, belongings = owner(world)
    world.simulation.set_options(healthy_after_seconds=1000)
    new = world.signal(sef, TERMINATION, instance_id=primary)["new_instance_id"]
    for _ in range(10):
        world.settle(sef, 10)  # of the 120 s
    assert steps_of(sef)["healthy"] == "pending"
    assert "elastic_ip" in belongings.held(primary)
    world.settle(sef, 5)
    assert steps_of(sef)["healthy"] == "failed"
    assert belongings.held(new) == ALL
    assert belongings.registered() == [new]
    assert cutover_of(sef)["status"] == "needs_operator"
    [event] = world.events("operator_needed")
    assert "Elb.RegistrationInProgress" in event.message
    world.simulation.set_options(healthy_after_seconds=0)
    world.settle(sef, 80)
    assert cutover_of(sef)["status"] == "done"
    assert len(world.events("operator_needed")) == 1, "it is said once"


@ONCE
def test_a_notice_for_the_old_primary_gives_the_cutover_a_deadline(world: World) -> None:
    sef, primary, belongings = owner(world)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    world.simulation.set_options(healthy_after_seconds=1000)
    world.signal(sef, REBALANCE, instance_id=primary)
    world.settle(sef, 400)
    assert cutover_of(sef)["deadline"] is None
    assert "elastic_ip" in belongings.held(primary)
    world.signal(sef, TERMINATION, instance_id=primary)
    new = world.agent().instance_id
    assert cutover_of(sef)["deadline"] is not None
    assert belongings.held(new) == ALL
    assert belongings.registered() == [new]


# What goes wrong


@ONCE
@pytest.mark.parametrize(
    ("action", "name"),
    [
        ("AssociateAddress", "elastic_ip"),
        ("ChangeResourceRecordSets", "dns"),
        ("AssignPrivateIpAddresses", "private_ip"),
        ("AttachNetworkInterface", "network_interface"),
        ("DetachVolume", "volumes"),
        ("RegisterTargets", "target_groups"),
    ],
)
def test_a_step_that_is_refused_holds_up_no_other(world: World, action: str, name: str) -> None:
    sef, primary, belongings = owner(world)
    world.simulation.add_fault(action, error_code=REFUSED)
    left = 5 if name in ("elastic_ip", "dns", "volumes") else 120
    end = (world.clock() + timedelta(seconds=left)).isoformat()
    answer = world.signal(sef, TERMINATION, instance_id=primary, termination_time=end)
    new = answer["new_instance_id"]
    for _ in range(left // 10):
        world.settle(sef, 10)
    assert belongings.held(new) == ALL - {name}
    assert cutover_of(sef)["status"] == "needs_operator"
    [event] = world.events("operator_needed")
    assert REFUSED in event.message
    assert event.severity == "error"
    world.simulation.clear_faults()
    world.settle(sef, 90)
    world.settle(sef, 90)
    assert belongings.held(new) == ALL
    assert cutover_of(sef)["status"] == "done"
    world.check()


@ONCE
@pytest.mark.parametrize(
    "fault",
    [{"error_code": "RequestLimitExceeded"}, {"lose_reply": True}],
    ids=["throttled", "answer lost"],
)
@pytest.mark.parametrize(
    "actions",
    [
        ["DescribeAddresses", "ListResourceRecordSets", "DescribeTargetHealth", "DescribeVolumes"],
        ["DisassociateAddress", "UnassignPrivateIpAddresses", "DetachVolume", "DeregisterTargets"],
        ["AssociateAddress", "AssignPrivateIpAddresses", "AttachVolume", "RegisterTargets"],
        ["DetachNetworkInterface", "ChangeResourceRecordSets"],
        ["AttachNetworkInterface"],
    ],
    ids=lambda actions: actions[0],
)
def test_what_aws_does_not_answer_is_tried_again(
    world: World, actions: list[str], fault: Any
) -> None:
    sef, primary, belongings = owner(world)
    for action in actions:
        world.simulation.add_fault(action, count=2, **fault)
    new = world.signal(sef, TERMINATION, instance_id=primary)["new_instance_id"]
    for _ in range(12):
        world.settle(sef, 6)
    assert belongings.held(new) == ALL
    assert belongings.registered() == [new]
    assert cutover_of(sef)["status"] == "done"
    assert world.events("operator_needed") == []
    world.check()


@ONCE
def test_nothing_is_moved_before_the_new_primary_runs(world: World) -> None:
    sef, primary, belongings = owner(world)
    sef.enable_manual_replica_mode("a")
    new = str(world.standby().instance_id)  # type: ignore[union-attr]
    # It is promoted unseen: EC2 does not say how it is.
    world.simulation.add_fault("DescribeInstances", error_code="RequestLimitExceeded")
    assert world.signal(sef, TERMINATION, instance_id=primary)["new_instance_id"] == new
    world.settle(sef, 5)
    assert steps_of(sef)["running"] == "pending"
    world.simulation.clear_faults()
    assert belongings.held(primary) == ALL
    world.settle(sef, 5)
    assert steps_of(sef)["running"] == "done"
    assert belongings.held(new) == ALL


@ONCE
def test_a_volume_in_another_zone_is_refused_and_stays(world: World) -> None:
    sef, primary, belongings = owner(world, "volumes", "elastic_ip", pools=OTHERS)
    # There is on-demand capacity in the zone of the volume, but nobody allows it here.
    sef.enable_manual_replica_mode("a")
    assert world.pool_of(world.standby().instance_id) in OTHERS  # type: ignore[union-attr]
    new = sef.execute_manual_switch("a")["new_instance_id"]
    [volume] = [step for step in cutover_of(sef)["steps"] if step["kind"] == "volume"]
    assert volume["status"] == "failed"
    assert "cannot leave its zone" in volume["error"]
    assert volume["error"].startswith(f"{belongings.volume_id} is in us-east-1a and {new} in ")
    for _ in range(5):
        world.settle(sef, 600)
    assert belongings.held(primary) >= {"volumes", "elastic_ip"}, "it serves on"
    assert world.state(primary) == "running"
    assert cutover_of(sef)["status"] == "needs_operator"
    # The operator decides to do without the volume.
    sef.register_agent("a", {"cutover": {"elastic_ip": belongings.allocation_id}})
    world.settle(sef, 90)
    world.settle(sef, 90)
    assert steps_of(sef)["volume"] == "skipped"
    assert "elastic_ip" in belongings.held(new)
    assert cutover_of(sef)["status"] == "done"
    assert world.state(primary) not in ALIVE
    world.check()


@ONCE
def test_a_standby_is_launched_where_the_volume_is(world: World) -> None:
    pools = ["m5.large.us-east-1a", "c5.large.us-east-1b", "r5.large.us-east-1a"]
    sef, primary, belongings = owner(world, "volumes", pools=pools)
    new = world.signal(sef, TERMINATION, instance_id=primary)["new_instance_id"]
    assert world.pool_of(new) == "r5.large.us-east-1a", "dearer, and in the zone of the volume"
    assert "volumes" in belongings.held(new)


@ONCE
def test_an_instance_named_by_hand_ends_the_cutover(world: World) -> None:
    sef, primary, belongings = owner(world)
    world.simulation.set_options(healthy_after_seconds=1000)
    world.signal(sef, TERMINATION, instance_id=primary)
    other = world.launch()
    sef.register_agent("a", {"instance_id": other})
    assert cutover_of(sef)["status"] == "superseded"
    [event] = world.events("cutover_superseded")
    assert "an operator named another primary" in event.message
    world.settle(sef, 600)
    assert belongings.held(other) == set()
    assert "elastic_ip" in belongings.held(primary)


@ONCE
def test_another_promotion_does_again_what_the_one_before_had_to(world: World) -> None:
    sef, primary, belongings = owner(world)
    world.simulation.set_options(healthy_after_seconds=1000)
    second = world.signal(sef, TERMINATION, instance_id=primary)["new_instance_id"]
    assert set(belongings.registered()) == {primary, second}
    world.clock.advance(10)
    third = world.signal(sef, TERMINATION, instance_id=second)["new_instance_id"]
    assert third not in (primary, second)
    world.simulation.set_options(healthy_after_seconds=0)
    world.settle(sef, 5)
    assert belongings.held(third) == ALL
    assert belongings.registered() == [third]
    statuses = sorted((row.epoch, row.status) for row in world.rows("cutovers"))
    assert statuses == [(2, "superseded"), (3, "done")]
    world.check()


@ONCE
def test_a_lost_primary_leaves_nothing_behind(world: World) -> None:
    """Nothing was announced; AWS has freed what the instance had."""
    sef, primary, belongings = owner(world)
    world.simulation.terminate(primary)
    world.clock.advance(1000)
    assert sef.detect_losses() == 1
    world.settle(sef, 1)
    new = world.agent().instance_id
    assert new != primary
    assert belongings.held(new) == ALL
    assert belongings.registered() == [new]
    assert cutover_of(sef)["status"] == "done"


def test_a_launch_that_is_put_off_does_not_put_off_the_cutover(world: World) -> None:
    sef, _, belongings = owner(world)
    sef.enable_manual_replica_mode("a")
    world.simulation.set_options(healthy_after_seconds=1000)
    world.simulation.add_fault("RunInstances", error_code=REFUSED)
    answer = sef.execute_manual_switch("a")
    new = answer["new_instance_id"]
    assert answer["cutover"] == {"id": cutover_of(sef)["id"], "status": "running"}
    assert world.agent().not_before > world.clock() + timedelta(seconds=60)
    world.simulation.set_options(healthy_after_seconds=0)
    world.settle(sef, 5)
    assert belongings.held(new) == ALL
    assert cutover_of(sef)["status"] == "done"


def test_it_is_told_what_has_it_now(world: World) -> None:
    """A record keeps what the agent does not say of it."""
    sef, primary, belongings = owner(world, "dns")
    assert belongings.record()["TTL"] == 30
    world.signal(sef, TERMINATION, instance_id=primary)
    assert belongings.record()["TTL"] == 30
    assert sef.get_agent_status("a")["agent"]["cutover"] == {
        "dns": {"zone_id": belongings.zone_id, "name": belongings.name}
        | {"type": "A", "address": "private"}
    }
