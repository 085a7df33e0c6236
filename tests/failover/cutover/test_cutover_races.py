"""Cutovers whose worker crashes or freezes in the middle, while other workers continue."""

from collections.abc import Callable
from typing import Any

import pytest

from sef.cloud.clients import Clients
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import (
    SAME_ZONE,
    Belongings,
    cutover_of,
    fail_over,
    hooked,
    owner,
)
from tests.harness import ON_MARIADB, TERMINATION, Crash, World

CHANGES = [
    ("elastic_ip", "AssociateAddress"),
    ("private_ip", "AssignPrivateIpAddresses"),
    ("network_interface", "DetachNetworkInterface"),
    ("network_interface", "AttachNetworkInterface"),
    ("volumes", "DetachVolume"),
    ("volumes", "AttachVolume"),
    ("dns", "ChangeResourceRecordSets"),
    ("target_groups", "RegisterTargets"),
    ("target_groups", "DeregisterTargets"),
]
INSPECTIONS = [
    ("elastic_ip", "DescribeAddresses"),
    ("private_ip", "DescribeNetworkInterfaces"),
    ("dns", "ListResourceRecordSets"),
    ("target_groups", "DescribeTargetHealth"),
]


def worker(world: World, clients: Clients) -> SmartEmergencyFallback:
    return world.sef(clients=clients, spot_pools=",".join(SAME_ZONE))


def assert_held_by(belongings: Belongings, name: str, instance_id: str) -> None:
    assert belongings.held(instance_id) == {name}
    if name == "target_groups":
        assert belongings.registered() == [instance_id]


@pytest.mark.parametrize(("name", "operation"), CHANGES)
@ON_MARIADB
def test_step_interrupted_by_a_crash_is_completed(world: World, name: str, operation: str) -> None:
    other, primary, belongings = owner(world, name)

    def crash(**_: Any) -> None:
        raise Crash

    dying = worker(world, hooked(world, f"after-call.*.{operation}", crash))
    with pytest.raises(Crash):
        world.signal(dying, TERMINATION, instance_id=primary)
    new = world.agent().instance_id
    assert new != primary, "promoted before the crash"
    world.settle(other, 5)
    assert_held_by(belongings, name, new)
    assert cutover_of(other)["status"] == "done"
    assert world.events("operator_needed") == []
    world.check()


@pytest.mark.parametrize(("name", "operation"), CHANGES + INSPECTIONS)
@ON_MARIADB
def test_frozen_worker_of_an_older_epoch_moves_nothing(
    world: World, name: str, operation: str
) -> None:
    """It froze just before a call; meanwhile another worker promoted again and moved the target."""
    other, primary, belongings = owner(world, name)

    def promote_again(**_: Any) -> None:
        second = world.agent().instance_id
        assert second != primary
        answer = world.signal(other, TERMINATION, instance_id=second)
        assert answer["action"] == "promoted"
        assert_held_by(belongings, name, answer["new_instance_id"])

    frozen = worker(world, hooked(world, f"before-call.*.{operation}", promote_again))
    fail_over(world, frozen, primary)
    third = world.agent().instance_id
    assert world.agent().epoch == 3
    assert_held_by(belongings, name, third)
    assert cutover_of(other)["status"] == "done"
    world.settle(frozen, 60)
    assert_held_by(belongings, name, third)
    statuses = {row.epoch: row.status for row in world.rows("cutovers")}
    assert statuses[3] == "done"
    if (name, operation) in CHANGES:
        assert statuses[2] == "superseded"
    # Before an inspection the step is not claimed, so the other worker finished both cutovers.
    world.check()


@ON_MARIADB
def test_two_workers_complete_one_cutover_once(world: World) -> None:
    names = ("volumes", "target_groups", "elastic_ip", "dns")
    other, primary, belongings = owner(world, *names)
    done: list[bool] = []

    def reconcile_meanwhile(**_: Any) -> None:
        world.clock.advance(5)  # the claim of the slow worker expires
        other.reconcile()
        done.append(True)

    slow = worker(world, hooked(world, "before-call.*.AssociateAddress", reconcile_meanwhile))
    new = fail_over(world, slow, primary)
    assert done
    world.settle(other, 5)
    assert belongings.held(new) == set(names)
    assert cutover_of(other)["status"] == "done"
    assert len(world.events("cutover_completed")) == 1
    world.check()


@ON_MARIADB
def test_late_deregistration_of_the_primary_is_undone(world: World) -> None:
    """An operator makes the former primary primary again just before it is deregistered."""
    other, primary, belongings = owner(world, "target_groups")

    def restore(**_: Any) -> None:
        other.register_agent("a", {"instance_id": primary})

    late = worker(world, hooked(world, "before-call.*.DeregisterTargets", restore))
    late.enable_manual_replica_mode("a")
    late.execute_manual_switch("a")
    assert world.agent().instance_id == primary
    assert primary in belongings.registered()
    [event] = [e for e in world.events("cutover_step") if "Undid a late deregister" in e.message]
    assert event.severity == "warning"


def after_last_check(clients: Clients, operation: str, do: Callable[[], object]) -> None:
    """Call `do` when SEF's own check before the call has passed and its bytes leave."""

    def before_send(event_name: str, **_: Any) -> None:
        if event_name.endswith(operation):
            do()

    clients.ec2.meta.events.register_last("before-send", before_send)


TAKING = [("elastic_ip", "AssociateAddress"), ("private_ip", "AssignPrivateIpAddresses")]


@pytest.mark.parametrize(("name", "operation"), TAKING)
@ON_MARIADB
def test_late_call_of_a_superseded_cutover_is_not_sent(
    world: World, name: str, operation: str
) -> None:
    other, primary, belongings = owner(world, name)
    sent: list[str] = []

    def promote_again(**_: Any) -> None:
        world.signal(other, TERMINATION, instance_id=world.agent().instance_id)
        after_last_check(clients, operation, lambda: sent.append(operation))

    clients = hooked(world, f"before-call.*.{operation}", promote_again)
    fail_over(world, worker(world, clients), primary)
    assert world.agent().epoch == 3
    assert sent == []
    assert_held_by(belongings, name, world.agent().instance_id)


@pytest.mark.parametrize("is_lost", [False, True], ids=["answered", "answer lost"])
@pytest.mark.parametrize(("name", "operation"), TAKING)
@ON_MARIADB
def test_address_that_a_late_call_took_goes_to_the_later_primary(
    world: World, name: str, operation: str, is_lost: bool
) -> None:
    """The worker freezes after its last check, with the call on its way."""
    other, primary, belongings = owner(world, name)
    stolen_by: list[str] = []

    def promote_again() -> None:
        second = world.agent().instance_id
        if stolen_by:
            return
        stolen_by.append(second)
        world.signal(other, TERMINATION, instance_id=second)
        assert_held_by(belongings, name, world.agent().instance_id)
        if is_lost:
            world.simulation.add_fault(operation, count=1, lose_reply=True)

    clients = hooked(world, "never", lambda **_: None)
    after_last_check(clients, operation, promote_again)
    fail_over(world, worker(world, clients), primary)
    third = world.agent().instance_id
    assert third not in stolen_by
    for _ in range(3):
        world.settle(other, 2)
    assert_held_by(belongings, name, third)
    assert cutover_of(other)["status"] == "done"
    [event] = [e for e in world.events("cutover_step") if "a late call" in e.message]
    assert event.severity == "warning"
    world.check()
