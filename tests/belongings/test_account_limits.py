"""Many agents share the account's limits: one question and one change for a zone or a group."""

from datetime import timedelta
from typing import Any

import pytest

from tests.belongings.traffic import Fleet, counted
from tests.failover.cutover.cutover_targets import (
    cutover_of,
    fail_over,
    hooked,
    owner,
    steps_of,
)
from tests.harness import ON_MARIADB, World

NAMES = ("elastic_ip", "volumes", "target_groups", "dns")
THROTTLES = [
    {
        "DescribeAddresses": "RequestLimitExceeded",
        "DescribeVolumes": "EC2ThrottledException",
        "DescribeTargetHealth": "ThrottlingException",
        "ListResourceRecordSets": "Throttling",
    },
    {
        "AssociateAddress": "RequestLimitExceeded",
        "AttachVolume": "SlowDown",
        "RegisterTargets": "Throttling",
        "ChangeResourceRecordSets": "PriorRequestNotComplete",
    },
    {
        "DeregisterTargets": "TooManyRequestsException",
        "DetachVolume": "RequestThrottled",
        "ChangeResourceRecordSets": "Throttling",
    },
]


@ON_MARIADB
def test_agents_of_one_zone_and_group_share_calls(world: World) -> None:
    clients, calls = counted(world)
    sef = world.sef(clients=clients)
    fleet = Fleet(world, sef, 10)
    world.simulation.set_options(healthy_after_seconds=1000)
    fleet.name_new_primaries()
    for _ in range(3):
        world.settle(sef, 5)
    calls.clear()
    world.settle(sef, 5)
    assert calls["DescribeTargetHealth"] <= 2, "all wait for their health"
    world.simulation.set_options(healthy_after_seconds=0)
    calls.clear()
    for _ in range(3):
        world.settle(sef, 5)
    assert fleet.moved() == fleet.agents
    assert fleet.group.targets() == {(instance, 80) for instance in fleet.new.values()}
    shared = ("DescribeTargetHealth", "DeregisterTargets", "ListResourceRecordSets")
    assert all(0 < calls[action] <= 8 for action in shared), calls
    assert calls["ChangeResourceRecordSets"] <= 4, calls
    assert {row.status for row in world.rows("cutovers", None)} == {"done"}
    assert [e for e in world.rows("system_events", None) if e.event_type == "operator_needed"] == []


@ON_MARIADB
def test_record_that_changes_meanwhile_does_not_stop_the_others(world: World) -> None:
    fleet: list[Fleet] = []

    def change_one(**_: Any) -> None:
        world.clock.advance(1)
        fleet[0].zone.write("web-001", "10.9.9.9")

    clients = hooked(world, "before-call.route-53.ChangeResourceRecordSets", change_one)
    sef = world.sef(clients=clients)
    fleet.append(Fleet(world, world.sef(), 4, "dns"))
    fleet[0].name_new_primaries()
    world.settle(sef, 5)
    world.settle(sef, 5)
    others = [agent for agent in fleet[0].agents if agent != "web-001"]
    assert [agent for agent in fleet[0].moved() if agent != "web-001"] == others
    # The step was guarded: no instance has that address, so it is nobody's.
    world.settle(sef, 5)
    assert fleet[0].moved() == fleet[0].agents


@ON_MARIADB
@pytest.mark.parametrize("codes", THROTTLES, ids=lambda codes: next(iter(codes)))
def test_throttled_steps_without_a_deadline_are_only_slow(
    world: World, codes: dict[str, str]
) -> None:
    sef, _, belongings = owner(world, *NAMES)
    sef.enable_manual_replica_mode("a")
    for action, code in codes.items():
        world.simulation.add_fault(action, error_code=code)
    new = sef.execute_manual_switch("a")["new_instance_id"]
    for _ in range(4):
        world.settle(sef, 70)
    assert cutover_of(sef)["status"] == "running"
    assert world.events("operator_needed") == []
    world.simulation.clear_faults()
    for _ in range(4):
        world.settle(sef, 10)
    assert belongings.held(new) == set(NAMES)
    assert belongings.registered() == [new]
    assert cutover_of(sef)["status"] == "done"


@ON_MARIADB
@pytest.mark.parametrize("codes", THROTTLES[1:2], ids=lambda codes: next(iter(codes)))
def test_throttled_steps_ask_for_an_operator_once_the_deadline_is_in_danger(
    world: World, codes: dict[str, str]
) -> None:
    sef, primary, belongings = owner(world, *NAMES)
    for action, code in codes.items():
        world.simulation.add_fault(action, error_code=code)
    new = fail_over(world, sef, primary)
    for _ in range(10):
        world.settle(sef, 10)
    assert world.events("operator_needed") == [], "20 s are left"
    for _ in range(3):
        world.settle(sef, 5)
    assert cutover_of(sef)["status"] == "needs_operator"
    world.simulation.clear_faults()
    for _ in range(3):
        world.settle(sef, 90)
    assert belongings.held(new) == set(NAMES)


@ON_MARIADB
def test_throttled_step_is_told_after_a_long_time(world: World) -> None:
    sef, _, _ = owner(world, "elastic_ip")
    sef.enable_manual_replica_mode("a")
    world.simulation.add_fault("DescribeAddresses", error_code="RequestLimitExceeded")
    sef.execute_manual_switch("a")
    for _ in range(9):
        world.settle(sef, 70)
    assert len(world.events("operator_needed")) == 1


@ON_MARIADB
def test_throttled_step_delays_no_other_one_before_a_deadline(world: World) -> None:
    names = ("private_ip", "elastic_ip", "dns")
    sef, primary, belongings = owner(world, *names)
    world.simulation.add_fault("AssignPrivateIpAddresses", error_code="RequestLimitExceeded")
    new = fail_over(world, sef, primary)
    for _ in range(4):
        world.settle(sef, 6)
    assert steps_of(sef)["private-ip"] == "pending"
    assert belongings.held(new) == {"elastic_ip", "dns"}


@ON_MARIADB
def test_seconds_left_bring_no_false_alarm_of_the_first_throttle(world: World) -> None:
    sef, primary, belongings = owner(world, "dns")
    world.simulation.add_fault("ListResourceRecordSets", error_code="Throttling", count=2)
    end = (world.clock() + timedelta(seconds=12)).isoformat()
    new = fail_over(world, sef, primary, termination_time=end)
    for _ in range(3):
        world.settle(sef, 1.5)
    assert belongings.held(new) == {"dns"}
    assert world.events("operator_needed") == []
