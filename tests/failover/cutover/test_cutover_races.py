"""Workers that die or freeze in the middle of a cutover, and what the others make of it."""

from typing import Any

import pytest

from sef.cloud.clients import Clients
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import SAME_ZONE, Belongings, cutover_of, hooked, owner
from tests.harness import ONCE, TERMINATION, Crash, World

MOVES = [
    ("elastic_ip", "DisassociateAddress"),
    ("elastic_ip", "AssociateAddress"),
    ("private_ip", "UnassignPrivateIpAddresses"),
    ("private_ip", "AssignPrivateIpAddresses"),
    ("network_interface", "DetachNetworkInterface"),
    ("network_interface", "AttachNetworkInterface"),
    ("volumes", "DetachVolume"),
    ("volumes", "AttachVolume"),
    ("dns", "ChangeResourceRecordSets"),
    ("target_groups", "RegisterTargets"),
    ("target_groups", "DeregisterTargets"),
]
LOOKS = [
    ("elastic_ip", "DescribeAddresses"),
    ("private_ip", "DescribeNetworkInterfaces"),
    ("dns", "ListResourceRecordSets"),
    ("target_groups", "DescribeTargetHealth"),
]


def worker(world: World, clients: Clients) -> SmartEmergencyFallback:
    return world.sef(clients=clients, spot_pools=",".join(SAME_ZONE))


def has_it_alone(belongings: Belongings, name: str, instance_id: str) -> None:
    assert belongings.held(instance_id) & {name} == {name}
    if name == "target_groups":
        assert belongings.registered() == [instance_id]


@pytest.mark.parametrize(("name", "operation"), MOVES)
@ONCE
def test_a_step_that_a_crash_cut_short_is_finished(world: World, name: str, operation: str) -> None:
    quick, primary, belongings = owner(world, name)

    def crash(**_: Any) -> None:
        raise Crash

    dying = worker(world, hooked(world, f"after-call.*.{operation}", crash))
    with pytest.raises(Crash):
        world.signal(dying, TERMINATION, instance_id=primary)
    new = world.agent().instance_id
    assert new != primary, "it was promoted before"
    world.settle(quick, 5)
    has_it_alone(belongings, name, new)
    assert cutover_of(quick)["status"] == "done"
    assert world.events("operator_needed") == []
    world.check()


@pytest.mark.parametrize(("name", "operation"), MOVES + LOOKS)
@ONCE
def test_a_late_worker_of_an_older_epoch_moves_nothing(
    world: World, name: str, operation: str
) -> None:
    """It froze just before a call; meanwhile others promoted once more and moved everything."""
    quick, primary, belongings = owner(world, name)

    def promote_once_more(**_: Any) -> None:
        second = world.agent().instance_id
        assert second != primary
        answer = world.signal(quick, TERMINATION, instance_id=second)
        assert answer["action"] == "promoted"
        has_it_alone(belongings, name, answer["new_instance_id"])

    late = worker(world, hooked(world, f"before-call.*.{operation}", promote_once_more))
    world.signal(late, TERMINATION, instance_id=primary)
    third = world.agent().instance_id
    assert world.agent().epoch == 3
    has_it_alone(belongings, name, third)
    assert cutover_of(quick)["status"] == "done"
    world.settle(late, 60)
    has_it_alone(belongings, name, third)
    statuses = {row.epoch: row.status for row in world.rows("cutovers")}
    assert statuses[3] == "done"
    if (name, operation) in MOVES:
        assert statuses[2] == "superseded"
    # Else nobody had taken the step up yet, and the others finished the first cutover as well.
    world.check()


@ONCE
def test_two_workers_at_one_cutover_do_it_once(world: World) -> None:
    quick, primary, belongings = owner(world)
    done: list[bool] = []

    def another_too(**_: Any) -> None:
        world.clock.advance(5)  # the other takes the first one's claim for given up
        quick.reconcile()
        done.append(True)

    slow = worker(world, hooked(world, "before-call.*.AssociateAddress", another_too))
    new = world.signal(slow, TERMINATION, instance_id=primary)["new_instance_id"]
    assert done
    world.settle(quick, 5)
    assert len(belongings.held(new)) == 6
    assert cutover_of(quick)["status"] == "done"
    assert len(world.events("cutover_completed")) == 1
    world.check()


@ONCE
def test_a_late_deregistration_of_the_primary_is_put_right(world: World) -> None:
    """The former primary is made primary again, by hand, while a worker is about to take it out."""
    quick, primary, belongings = owner(world, "target_groups")

    def take_it_back(**_: Any) -> None:
        quick.register_agent("a", {"instance_id": primary})

    late = worker(world, hooked(world, "before-call.*.DeregisterTargets", take_it_back))
    world.signal(late, TERMINATION, instance_id=primary)
    assert world.agent().instance_id == primary
    assert primary in belongings.registered()
    [event] = [e for e in world.events("cutover_step") if "Undid a late deregister" in e.message]
    assert event.severity == "warning"
