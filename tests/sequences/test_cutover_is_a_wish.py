"""Every target belongs to the present primary, whatever happened to its cutover in between."""

from typing import Any

import pytest

from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import (
    ALL,
    Belongings,
    cutover_of,
    fail_over,
    owner,
    steps_of,
)
from tests.harness import ALIVE, ONCE, REBALANCE, TERMINATION, World

DAY = 86_400
REFUSED = "UnauthorizedOperation"
ELB = "elasticloadbalancing"
MISTYPED: dict[str, Any] = {
    "elastic_ip": "eipalloc-0123456789abcdef0",
    "volumes": [{"id": "vol-0123456789abcdef0", "device": "/dev/sdf"}],
    "network_interface": {"id": "eni-0123456789abcdef0"},
    "target_groups": [
        {"arn": f"arn:aws:{ELB}:us-east-1:123456789012:targetgroup/x/0123456789abcdef"},
    ],
    "dns": {"zone_id": "Z0123456789ABC", "name": "www.other.example"},
    "private_ip": "10.250.0.9",
}
REFUSING = {
    "elastic_ip": "AssociateAddress",
    "volumes": "AttachVolume",
    "network_interface": "AttachNetworkInterface",
    "target_groups": "RegisterTargets",
    "dns": "ChangeResourceRecordSets",
    "private_ip": "AssignPrivateIpAddresses",
}
EVERY = sorted(ALL)


def switch(sef: SmartEmergencyFallback) -> str:
    return str(sef.execute_manual_switch("a")["new_instance_id"])


def unhealthy(world: World) -> None:
    world.simulation.set_options(healthy_after_seconds=100_000)


def settle(world: World, sef: SmartEmergencyFallback, times: int, seconds: float = 70) -> None:
    for _ in range(times):
        world.settle(sef, seconds)


def put(sef: SmartEmergencyFallback, **targets: Any) -> Any:
    return sef.register_agent("a", {"cutover": targets or None})


def assert_all_moved(belongings: Belongings, new: str, sef: SmartEmergencyFallback) -> None:
    assert belongings.held(new) == set(belongings.targets)
    if "target_groups" in belongings.targets:
        assert belongings.registered() == [new]
    assert cutover_of(sef)["status"] == "done"


# The time that a step takes


@pytest.mark.parametrize("name", ["elastic_ip", "target_groups", "dns"])
@ONCE
def test_step_that_is_mended_after_sixty_days_ends(world: World, name: str, caplog: Any) -> None:
    sef, primary, belongings = owner(world, name, probation_seconds=0)
    world.simulation.add_fault(REFUSING[name], error_code=REFUSED)
    new = fail_over(world, sef, primary)
    settle(world, sef, 3, 60)
    assert cutover_of(sef)["status"] == "needs_operator"
    world.clock.advance(60 * DAY)
    world.simulation.clear_faults()
    settle(world, sef, 4, 120)
    assert_all_moved(belongings, new, sef)
    assert [record for record in caplog.records if record.exc_info] == []
    assert world.signal(sef, TERMINATION, instance_id=new)["new_instance_id"] not in (None, new)


@ONCE
def test_step_that_is_given_up_after_a_month_ends(world: World, caplog: Any) -> None:
    sef, primary, _ = owner(world, "elastic_ip", probation_seconds=0)
    world.simulation.add_fault("AssociateAddress", error_code=REFUSED)
    fail_over(world, sef, primary)
    settle(world, sef, 3, 60)
    world.clock.advance(26 * DAY)
    put(sef)
    settle(world, sef, 3, 120)
    assert cutover_of(sef)["status"] == "done"
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("hours", [1, 30])
@ONCE
def test_clock_that_is_set_back_delays_no_step(world: World, hours: int) -> None:
    sef, _, belongings = owner(world, "elastic_ip", "target_groups")
    sef.enable_manual_replica_mode("a")
    unhealthy(world)
    new = switch(sef)
    settle(world, sef, 2, 20)
    world.clock.advance(-3600 * hours)
    world.simulation.set_options(healthy_after_seconds=0)
    settle(world, sef, 6, 10)
    assert_all_moved(belongings, new, sef)
    assert all(step["latency_ms"] is not None for step in cutover_of(sef)["steps"])


@ONCE
def test_clock_that_is_set_back_delays_no_step_after_a_notice(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip")
    world.simulation.throttle("AssociateAddress", count=2)
    new = fail_over(world, sef, primary)
    assert steps_of(sef)["elastic-ip"] == "pending"
    world.clock.advance(-3600)
    settle(world, sef, 2, 10)
    assert_all_moved(belongings, new, sef)


# The end of the holder


@pytest.mark.parametrize("how", ["terminated", "stopped"])
@ONCE
def test_dead_holder_that_sef_did_not_launch_is_found(world: World, how: str) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "target_groups", "dns")
    sef.enable_manual_replica_mode("a")
    unhealthy(world)
    new = switch(sef)
    settle(world, sef, 2, 30)
    assert cutover_of(sef)["deadline"] is None
    if how == "terminated":
        world.simulation.terminate(primary)
    else:
        world.client.stop_instances(InstanceIds=[primary])
    settle(world, sef, 3, 30)
    assert belongings.held(new) == {"elastic_ip", "target_groups", "dns"}
    assert steps_of(sef)["healthy"] == "skipped"
    assert cutover_of(sef)["is_hurried"]
    assert cutover_of(sef)["status"] == "done"


@pytest.mark.parametrize("end", ["notice", "death"])
@ONCE
def test_holder_ends_after_two_switches(world: World, end: str) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "target_groups", probation_seconds=0)
    sef.enable_manual_replica_mode("a")
    unhealthy(world)
    second = switch(sef)
    settle(world, sef, 1, 30)
    third = switch(sef)
    settle(world, sef, 1, 10)
    assert "elastic_ip" in belongings.held(primary)
    assert world.state(second) in ALIVE
    if end == "notice":
        world.signal(sef, TERMINATION, instance_id=primary)
    else:
        world.simulation.terminate(primary)
    settle(world, sef, 12, 10)
    assert "elastic_ip" in belongings.held(third)


@ONCE
def test_target_of_a_healthy_former_primary_waits_while_another_one_ends(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "target_groups", probation_seconds=0)
    sef.enable_manual_replica_mode("a")
    unhealthy(world)
    second = switch(sef)
    settle(world, sef, 1, 30)
    third = fail_over(world, sef, second)
    settle(world, sef, 11, 10)
    assert "elastic_ip" in belongings.held(primary), "it serves, and the third is not healthy"
    world.simulation.set_options(healthy_after_seconds=0)
    settle(world, sef, 3)
    assert_all_moved(belongings, third, sef)


# The targets change


@pytest.mark.parametrize("name", EVERY)
@ONCE
def test_target_that_is_corrected_follows(world: World, name: str) -> None:
    sef, primary, belongings = owner(world, name, probation_seconds=0)
    put(sef, **{name: MISTYPED[name]})
    sef.enable_manual_replica_mode("a")
    new = switch(sef)
    settle(world, sef, 2, 30)
    assert cutover_of(sef)["status"] == "needs_operator"
    assert world.state(primary) in ALIVE
    put(sef, **belongings.targets)
    settle(world, sef, 4)
    assert_all_moved(belongings, new, sef)
    assert len({row.epoch for row in world.rows("cutovers")}) == 1
    assert world.state(primary) not in ALIVE


@ONCE
def test_target_that_is_corrected_twice_follows(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", probation_seconds=0)
    put(sef, elastic_ip="eipalloc-0123456789abcdef0")
    sef.enable_manual_replica_mode("a")
    new = switch(sef)
    settle(world, sef, 1, 30)
    put(sef, elastic_ip="eipalloc-0123456789abcdef1")
    settle(world, sef, 1, 30)
    assert cutover_of(sef)["status"] == "needs_operator"
    assert world.state(primary) in ALIVE
    put(sef, **belongings.targets)
    settle(world, sef, 2)
    assert_all_moved(belongings, new, sef)
    statuses = [step["status"] for step in cutover_of(sef)["steps"]]
    assert statuses.count("skipped") == 2


@pytest.mark.parametrize("name", [name for name in EVERY if name != "target_groups"])
@ONCE
def test_target_that_is_added_while_a_cutover_waits_follows(world: World, name: str) -> None:
    sef, primary, belongings = owner(world, name, "target_groups", probation_seconds=0)
    put(sef, target_groups=belongings.targets["target_groups"])
    sef.enable_manual_replica_mode("a")
    unhealthy(world)
    new = switch(sef)
    settle(world, sef, 1, 30)
    put(sef, **belongings.targets)
    world.simulation.set_options(healthy_after_seconds=0)
    settle(world, sef, 4)
    assert_all_moved(belongings, new, sef)
    assert world.state(primary) not in ALIVE


@pytest.mark.parametrize("name", EVERY)
@ONCE
def test_target_that_is_added_after_the_cutover_is_done_follows(world: World, name: str) -> None:
    other = "elastic_ip" if name != "elastic_ip" else "dns"
    sef, primary, belongings = owner(world, name, other, probation_seconds=0)
    put(sef, **{other: belongings.targets[other]})
    sef.set_auto_mode("a", "auto-switch", enabled=True)  # which leaves the old primary running
    world.signal(sef, REBALANCE, instance_id=primary)
    settle(world, sef, 2, 10)
    new = world.agent().instance_id
    assert new != primary
    assert cutover_of(sef)["status"] == "done"
    assert name in belongings.held(primary)
    put(sef, **belongings.targets)
    assert cutover_of(sef)["status"] == "running"
    settle(world, sef, 2)
    assert_all_moved(belongings, new, sef)
    assert len(world.rows("cutovers")) == 1


@ONCE
def test_target_that_is_given_only_after_the_switch_follows(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "dns", probation_seconds=0)
    put(sef)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    world.signal(sef, REBALANCE, instance_id=primary)
    settle(world, sef, 2, 10)
    new = world.agent().instance_id
    assert new != primary
    assert world.rows("cutovers") == []
    put(sef, **belongings.targets)
    settle(world, sef, 2)
    assert_all_moved(belongings, new, sef)


@pytest.mark.parametrize("is_stuck", [True, False])
@ONCE
def test_target_that_is_removed_and_put_back_follows(world: World, is_stuck: bool) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "dns", probation_seconds=0)
    if is_stuck:
        world.simulation.add_fault("AssociateAddress", error_code=REFUSED)
    new = fail_over(world, sef, primary)
    settle(world, sef, 2, 30)
    put(sef, dns=belongings.targets["dns"])
    settle(world, sef, 1, 30)
    assert cutover_of(sef)["status"] == "done"
    if not is_stuck:
        # The operator moves it back by hand while it is no target.
        belongings.ec2.associate_address(
            AllocationId=belongings.allocation_id,
            NetworkInterfaceId=belongings.interface(primary)["NetworkInterfaceId"],
            AllowReassociation=True,
        )
    world.simulation.clear_faults()
    put(sef, **belongings.targets)
    settle(world, sef, 2)
    assert_all_moved(belongings, new, sef)
    kinds = [step["kind"] for step in cutover_of(sef)["steps"]]
    assert len(kinds) == len(set(kinds)), "the same step again, and no second one"


@ONCE
def test_target_that_a_strange_instance_holds_is_not_taken_at_rest(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "dns", probation_seconds=0)
    stranger = world.launch()
    interface = belongings.interface(stranger)
    belongings.ec2.associate_address(
        AllocationId=belongings.allocation_id,
        NetworkInterfaceId=interface["NetworkInterfaceId"],
        AllowReassociation=True,
    )
    belongings.write_record(interface["PrivateIpAddress"])
    put(sef)
    fail_over(world, sef, primary)
    put(sef, **belongings.targets)
    settle(world, sef, 2, 30)
    assert belongings.held(stranger) == {"elastic_ip", "dns"}
    assert cutover_of(sef)["status"] == "needs_operator"
    errors = [step["error"] for step in cutover_of(sef)["steps"] if step["status"] == "failed"]
    assert len(errors) == 2
    assert all(f"is with {stranger}, which was never the primary" in e for e in errors)
    put(sef)
    settle(world, sef, 1, 30)
    assert cutover_of(sef)["status"] == "done"
    assert belongings.held(stranger) == {"elastic_ip", "dns"}


@ONCE
def test_agent_without_a_former_primary_has_no_cutover(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "volumes")
    put(sef, elastic_ip=belongings.allocation_id)
    settle(world, sef, 2, 30)
    assert world.rows("cutovers") == []
    assert belongings.held(primary) == {"elastic_ip", "volumes"}


@ONCE
def test_same_targets_again_open_no_cutover(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "dns")
    fail_over(world, sef, primary)
    version = world.rows("cutovers")[0].version
    put(sef, **belongings.targets)
    settle(world, sef, 1, 30)
    assert [row.version for row in world.rows("cutovers")] == [version]


# The primary is named by an operator


@ONCE
def test_targets_follow_the_old_primary_that_is_put_back_half_way(world: World) -> None:
    sef, primary, belongings = owner(
        world, "elastic_ip", "dns", "target_groups", probation_seconds=0
    )
    sef.enable_manual_replica_mode("a")
    world.simulation.add_fault("AssociateAddress", error_code=REFUSED)
    new = switch(sef)
    settle(world, sef, 1, 60)
    assert "dns" in belongings.held(new)
    assert world.state(primary) in ALIVE
    world.simulation.clear_faults()
    sef.register_agent("a", {"instance_id": primary})
    settle(world, sef, 3, 30)
    assert_all_moved(belongings, primary, sef)
    assert [(row.epoch, row.status) for row in world.rows("cutovers")] == [
        (2, "superseded"),
        (3, "done"),
    ]


@ONCE
def test_targets_follow_a_third_instance_and_their_holder_lives_until_then(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "target_groups", probation_seconds=0)
    sef.enable_manual_replica_mode("a")
    unhealthy(world)
    switch(sef)
    settle(world, sef, 1, 60)
    third = world.launch()
    sef.register_agent("a", {"instance_id": third})
    settle(world, sef, 3, 30)
    assert world.state(primary) in ALIVE, "it has the address and the traffic"
    assert "elastic_ip" in belongings.held(primary)
    world.simulation.set_options(healthy_after_seconds=0)
    settle(world, sef, 3)
    assert_all_moved(belongings, third, sef)


@ONCE
def test_agent_that_is_taken_out_moves_nothing(world: World) -> None:
    sef, primary, belongings = owner(world, "elastic_ip", "target_groups", probation_seconds=0)
    sef.set_auto_mode("a", "auto-switch", enabled=True)  # which leaves the old primary running
    unhealthy(world)
    world.signal(sef, REBALANCE, instance_id=primary)
    settle(world, sef, 2, 10)
    assert cutover_of(sef)["status"] == "running"
    sef.register_agent("a", {"instance_id": None})
    world.simulation.set_options(healthy_after_seconds=0)
    settle(world, sef, 3, 30)
    assert cutover_of(sef)["status"] == "superseded"
    assert belongings.held(primary) == {"elastic_ip", "target_groups"}


# Operators are told


@ONCE
def test_stuck_cutover_is_told_again_for_a_new_reason_only(world: World) -> None:
    sef, primary, _ = owner(world, "elastic_ip", "dns", probation_seconds=0)
    world.simulation.add_fault("AssociateAddress", error_code=REFUSED)
    fail_over(world, sef, primary)
    settle(world, sef, 5)
    assert len(world.events("operator_needed")) == 1
    world.simulation.clear_faults()
    world.simulation.add_fault("AssociateAddress", error_code="InvalidNetworkInterfaceID.NotFound")
    settle(world, sef, 5)
    first, second = world.events("operator_needed")
    assert REFUSED in first.message
    assert "InvalidNetworkInterfaceID.NotFound" in second.message
