"""The cutover targets of an agent follow its new primary after a promotion."""

from datetime import timedelta
from typing import Any

import pytest

from sef.terms import LaunchAway
from tests.failover.cutover.cutover_targets import ALL, cutover_of, fail_over, owner, steps_of
from tests.harness import ALIVE, ONCE, OTHERS, REBALANCE, TERMINATION, World

REFUSED = "UnauthorizedOperation"


def test_failover_moves_every_target(world: World) -> None:
    sef, primary, belongings = owner(world)
    assert belongings.held(primary) == ALL
    new = fail_over(world, sef, primary)
    assert belongings.held(new) == ALL
    assert belongings.registered() == [new]
    cutover = cutover_of(sef)
    assert cutover["status"] == "done"
    assert (cutover["old_instance_id"], cutover["new_instance_id"]) == (primary, new)
    assert cutover["epoch"] == world.agent().epoch == 2
    assert all(step["latency_ms"] is not None for step in cutover["steps"])
    [completed] = world.events("cutover_completed")
    assert completed.incident_id == cutover["incident_id"]
    world.check()


def test_switch_keeps_the_old_primary_until_every_target_has_moved(world: World) -> None:
    sef, primary, belongings = owner(world)
    sef.enable_manual_replica_mode("a")
    world.simulation.set_options(healthy_after_seconds=1000)
    new = sef.execute_manual_switch("a")["new_instance_id"]
    # The new primary is not healthy yet, so the traffic stays with the old one.
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
    world.settle(sef, 31)  # the record's TTL: caches send clients to the old primary until then
    assert world.state(primary) not in ALIVE
    world.check()


@ONCE
def test_agent_without_targets_has_no_cutover(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.signal(sef, TERMINATION, instance_id=primary)
    assert cutover_of(sef) is None
    assert world.rows("cutovers") == []


@ONCE
def test_with_seconds_left_every_target_moves_at_once(world: World) -> None:
    sef, primary, belongings = owner(world)
    world.simulation.set_options(healthy_after_seconds=1000)
    end = (world.clock() + timedelta(seconds=5)).isoformat()
    new = fail_over(world, sef, primary, termination_time=end)
    assert belongings.held(new) == ALL
    assert belongings.registered() == [new]
    assert cutover_of(sef)["status"] == "done"
    assert steps_of(sef)["healthy"] == "skipped"


@ONCE
def test_unhealthy_primary_is_awaited_as_long_as_the_deadline_allows(world: World) -> None:
    names = ("volumes", "target_groups", "elastic_ip", "dns")
    sef, primary, belongings = owner(world, *names)
    world.simulation.set_options(healthy_after_seconds=1000)
    new = fail_over(world, sef, primary)
    for _ in range(10):
        world.settle(sef, 10)  # of the 120 s
    assert steps_of(sef)["healthy"] == "pending"
    assert "elastic_ip" in belongings.held(primary)
    world.settle(sef, 5)
    assert steps_of(sef)["healthy"] == "failed"
    assert belongings.held(new) == set(names)
    assert belongings.registered() == [new]
    assert cutover_of(sef)["status"] == "needs_operator"
    [event] = world.events("operator_needed")
    assert "Elb.RegistrationInProgress" in event.message
    world.simulation.set_options(healthy_after_seconds=0)
    world.settle(sef, 80)
    assert cutover_of(sef)["status"] == "done"
    assert len(world.events("operator_needed")) == 1, "it is reported once"


@ONCE
def test_notice_for_the_old_primary_sets_the_deadline_of_its_cutover(world: World) -> None:
    names = ("target_groups", "elastic_ip")
    sef, primary, belongings = owner(world, *names)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    world.simulation.set_options(healthy_after_seconds=1000)
    world.signal(sef, REBALANCE, instance_id=primary)
    world.settle(sef, 400)
    assert cutover_of(sef)["deadline"] is None
    assert "elastic_ip" in belongings.held(primary)
    world.signal(sef, TERMINATION, instance_id=primary)
    new = world.agent().instance_id
    assert cutover_of(sef)["deadline"] is not None
    assert belongings.held(new) == set(names)
    assert belongings.registered() == [new]


# Failing steps


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
def test_refused_step_delays_no_other(world: World, action: str, name: str) -> None:
    sef, primary, belongings = owner(world)
    world.simulation.add_fault(action, error_code=REFUSED)
    left = 5 if name in ("elastic_ip", "dns", "volumes") else 120
    end = (world.clock() + timedelta(seconds=left)).isoformat()
    new = fail_over(world, sef, primary, termination_time=end)
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
        {
            "DescribeAddresses": "elastic_ip",
            "ListResourceRecordSets": "dns",
            "DescribeTargetHealth": "target_groups",
            "DescribeVolumes": "volumes",
        },
        {
            "DetachVolume": "volumes",
            "DeregisterTargets": "target_groups",
        },
        {
            "AssociateAddress": "elastic_ip",
            "AssignPrivateIpAddresses": "private_ip",
            "AttachVolume": "volumes",
            "RegisterTargets": "target_groups",
        },
        {"DetachNetworkInterface": "network_interface", "ChangeResourceRecordSets": "dns"},
        {"AttachNetworkInterface": "network_interface"},
    ],
    ids=lambda actions: next(iter(actions)),
)
def test_call_that_aws_does_not_answer_is_retried(
    world: World, actions: dict[str, str], fault: Any
) -> None:
    sef, primary, belongings = owner(world, *actions.values())
    for action in actions:
        world.simulation.add_fault(action, count=2, **fault)
    new = fail_over(world, sef, primary)
    for _ in range(12):
        world.settle(sef, 6)
    assert belongings.held(new) == set(actions.values())
    if "target_groups" in belongings.targets:
        assert belongings.registered() == [new]
    assert cutover_of(sef)["status"] == "done"
    assert world.events("operator_needed") == []
    world.check()


@ONCE
def test_no_target_moves_before_the_new_primary_runs(world: World) -> None:
    names = ("volumes", "target_groups", "elastic_ip")
    sef, primary, belongings = owner(world, *names)
    sef.enable_manual_replica_mode("a")
    new = str(world.standby().instance_id)  # type: ignore[union-attr]
    # EC2 does not describe the standby, which is promoted without a check.
    world.simulation.add_fault("DescribeInstances", error_code="RequestLimitExceeded")
    assert fail_over(world, sef, primary) == new
    world.settle(sef, 5)
    assert steps_of(sef)["running"] == "pending"
    world.simulation.clear_faults()
    assert belongings.held(primary) == set(names)
    world.settle(sef, 5)
    assert steps_of(sef)["running"] == "done"
    assert belongings.held(new) == set(names)


@ONCE
def test_volume_in_another_zone_stays_with_the_old_primary(world: World) -> None:
    sef, primary, belongings = owner(
        world, "volumes", "elastic_ip", pools=OTHERS, launch_away_from_targets=LaunchAway.ALWAYS
    )
    # The zone of the volume has on-demand capacity, which this agent may not use.
    sef.enable_manual_replica_mode("a")
    assert world.pool_of(world.standby().instance_id) in OTHERS  # type: ignore[union-attr]
    new = sef.execute_manual_switch("a")["new_instance_id"]
    [volume] = [step for step in cutover_of(sef)["steps"] if step["kind"] == "volume"]
    assert volume["status"] == "failed"
    assert "cannot leave its zone" in volume["error"]
    assert volume["error"].startswith(f"{belongings.volume_id} is in us-east-1a and {new} in ")
    for _ in range(5):
        world.settle(sef, 600)
    assert belongings.held(primary) >= {"volumes", "elastic_ip"}, "it keeps serving"
    assert world.state(primary) == "running"
    assert cutover_of(sef)["status"] == "needs_operator"
    # The operator removes the volume from the targets.
    sef.register_agent("a", {"cutover": {"elastic_ip": belongings.allocation_id}})
    world.settle(sef, 90)
    world.settle(sef, 90)
    assert steps_of(sef)["volume"] == "skipped"
    assert "elastic_ip" in belongings.held(new)
    assert cutover_of(sef)["status"] == "done"
    assert world.state(primary) not in ALIVE
    world.check()


@ONCE
def test_standby_is_launched_in_the_zone_of_the_volume(world: World) -> None:
    pools = ["m5.large.us-east-1a", "c5.large.us-east-1b", "r5.large.us-east-1a"]
    sef, primary, belongings = owner(world, "volumes", pools=pools)
    new = fail_over(world, sef, primary)
    assert world.pool_of(new) == "r5.large.us-east-1a", "dearer, but in the zone of the volume"
    assert "volumes" in belongings.held(new)


@ONCE
def test_primary_named_by_an_operator_supersedes_the_cutover_and_gets_the_targets(
    world: World,
) -> None:
    sef, primary, belongings = owner(world, "target_groups", "elastic_ip")
    world.simulation.set_options(healthy_after_seconds=1000)
    fail_over(world, sef, primary)
    other = world.launch()
    sef.register_agent("a", {"instance_id": other})
    statuses = sorted((row.epoch, row.status) for row in world.rows("cutovers"))
    assert statuses == [(2, "superseded"), (3, "running")]
    [event] = world.events("cutover_superseded")
    assert "an operator named another primary" in event.message
    world.simulation.set_options(healthy_after_seconds=0)
    world.settle(sef, 5)
    assert belongings.held(other) == {"target_groups", "elastic_ip"}
    assert belongings.registered() == [other]
    assert cutover_of(sef)["status"] == "done"


@ONCE
def test_next_promotion_moves_the_targets_of_an_unfinished_cutover(world: World) -> None:
    names = ("volumes", "target_groups", "elastic_ip")
    sef, primary, belongings = owner(world, *names)
    world.simulation.set_options(healthy_after_seconds=1000)
    second = fail_over(world, sef, primary)
    assert set(belongings.registered()) == {primary, second}
    world.clock.advance(10)
    third = fail_over(world, sef, second)
    assert third not in (primary, second)
    world.simulation.set_options(healthy_after_seconds=0)
    world.settle(sef, 5)
    assert belongings.held(third) == set(names)
    assert belongings.registered() == [third]
    statuses = sorted((row.epoch, row.status) for row in world.rows("cutovers"))
    assert statuses == [(2, "superseded"), (3, "done")]
    world.check()


@ONCE
def test_targets_of_a_lost_primary_move_to_the_new_one(world: World) -> None:
    """AWS announced nothing, and has detached the targets from the instance."""
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


@ONCE
def test_postponed_launch_does_not_postpone_the_cutover(world: World) -> None:
    names = ("target_groups", "elastic_ip")
    sef, _, belongings = owner(world, *names)
    sef.enable_manual_replica_mode("a")
    world.simulation.set_options(healthy_after_seconds=1000)
    world.simulation.add_fault("RunInstances", error_code=REFUSED)
    answer = sef.execute_manual_switch("a")
    new = answer["new_instance_id"]
    assert answer["cutover"] == {"id": cutover_of(sef)["id"], "status": "running"}
    assert world.agent().not_before > world.clock() + timedelta(seconds=60)
    world.simulation.set_options(healthy_after_seconds=0)
    world.settle(sef, 5)
    assert belongings.held(new) == set(names)
    assert cutover_of(sef)["status"] == "done"


@ONCE
def test_record_keeps_its_ttl_if_the_target_has_none(world: World) -> None:
    sef, primary, belongings = owner(world, "dns")
    assert belongings.record()["TTL"] == 30
    fail_over(world, sef, primary)
    assert belongings.record()["TTL"] == 30
    assert sef.get_agent_status("a")["agent"]["cutover"] == {
        "dns": {"zone_id": belongings.zone_id, "name": belongings.name}
        | {"type": "A", "address": "private"}
    }
