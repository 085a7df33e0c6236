"""A sweep terminates orphans, which it finds by their tags, and no other instance."""

import time
from typing import Any

import pytest

from sef.cloud.errors import CloudError
from sef.errors import SefError
from tests.harness import ALIVE, ON_MARIADB, REBALANCE, Crash, World, meanwhile
from tests.mariadb import MariaDB


def orphan(world: World, deployment: str | None = None, **tags: str) -> str:
    """Launch an instance with the tags of a deployment that no row refers to."""
    name = deployment or world.rows("deployment", None)[0].name
    all_tags = {"sef:managed": name, "sef:agent": "a", "sef:attempt": "forgotten-1"} | {
        k.replace("_", ":"): v for k, v in tags.items()
    }
    spec = [{"Key": key, "Value": value} for key, value in all_tags.items()]
    return world.launch(TagSpecifications=[{"ResourceType": "instance", "Tags": spec}])


def named(world: World) -> Any:
    """Return a worker whose database has a deployment name."""
    sef = world.sef()
    assert sef.sweep_orphans() == 0
    return sef


def test_an_orphan_is_terminated_at_its_minimum_age(world: World) -> None:
    sef = named(world)
    forgotten = orphan(world)
    world.clock.advance(240)
    assert sef.sweep_orphans() == 0
    assert world.state(forgotten) == "running"
    world.clock.advance(120)
    assert sef.sweep_orphans() == 1
    assert world.state(forgotten) == "terminated"
    [event] = world.events("orphan_terminated")
    assert event.severity == "warning"
    assert event.details["instance_id"] == forgotten
    assert event.message.startswith("SEF: ")
    world.clock.advance(600)
    assert sef.sweep_orphans() == 0
    assert len(world.events("orphan_terminated")) == 1


@ON_MARIADB
def test_instances_of_other_deployments_and_without_tags_are_kept(world: World) -> None:
    sef = named(world)
    others = [orphan(world, deployment="sef-of-others"), world.launch()]
    world.clock.advance(3600)
    assert sef.sweep_orphans() == 0
    assert {world.state(i) for i in others} == {"running"}


@ON_MARIADB
def test_instances_that_a_row_refers_to_are_kept(world: World) -> None:
    sef = named(world)
    # A standby, a promoted standby, a former primary that still drains, a registered primary.
    primary = world.primary(sef, "a")
    world.signal(sef, REBALANCE, "a")
    old = world.primary(sef, "b")
    for mode in ("auto-switch", "auto-terminate"):
        sef.set_auto_mode("b", mode, enabled=True)
    world.signal(sef, REBALANCE, "b")
    adopted = orphan(world, sef_agent="c")
    sef.register_agent("c", {"instance_id": adopted})
    world.clock.advance(3600)
    assert sef.sweep_orphans() == 0
    everything = [primary, old, adopted, *(i.id for i in world.tagged("a") + world.tagged("b"))]
    assert {world.state(i) for i in everything} == {"running"}
    world.check("a")


@ON_MARIADB
def test_the_instance_of_an_open_launch_is_kept(world: World) -> None:
    sef = named(world)
    world.primary(sef)
    world.simulation.add_fault("RunInstances", count=2, lose_reply=True)
    world.signal(sef, REBALANCE)
    world.clock.advance(3600)
    assert sef.sweep_orphans() == 0
    assert len(world.alive()) == 1
    world.settle(sef, 1)
    assert world.standby().instance_id == world.alive()[0].id
    world.check()


@ON_MARIADB
@pytest.mark.parametrize(
    "between", ["coalesce(launch_attempts.call_token", "agents.instance_id IN"]
)
def test_the_instance_of_a_launch_answered_during_the_sweep_is_kept(
    world: World, between: str
) -> None:
    sef, other = named(world), world.sef()
    world.primary(sef)
    world.simulation.add_fault("RunInstances", count=2, lose_reply=True)
    world.signal(sef, REBALANCE)
    [launched] = world.tagged()
    world.clock.advance(600)
    with meanwhile(between, other.reconcile):
        assert sef.sweep_orphans() == 0
    assert world.standby().instance_id == launched.id
    assert world.state(launched.id) == "running"
    world.check()


@ON_MARIADB
def test_an_instance_retired_during_the_sweep_is_not_reported(world: World) -> None:
    sef, other = named(world), world.sef()
    world.primary(sef)
    sef.enable_manual_replica_mode("a")
    sef.execute_manual_switch("a")
    former = world.agent().instance_id
    world.simulation.throttle("TerminateInstances")
    sef.execute_manual_switch("a")
    world.simulation.clear_faults()
    world.clock.advance(600)
    with meanwhile("coalesce(launch_attempts.call_token", other.reconcile):
        assert sef.sweep_orphans() == 0
    assert world.state(former) == "terminated"
    assert not world.events("orphan_terminated")
    world.check()


@ON_MARIADB
def test_nothing_is_terminated_while_ec2_cannot_be_read(world: World) -> None:
    sef = named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)
    world.simulation.add_fault("DescribeInstances", error_code="ServiceUnavailable")
    with pytest.raises(CloudError):
        sef.sweep_orphans()
    assert world.state(forgotten) in ALIVE
    world.simulation.clear_faults()
    assert sef.sweep_orphans() == 1


@ON_MARIADB
def test_nothing_is_terminated_while_the_database_cannot_be_read(
    world: World, mariadb: MariaDB
) -> None:
    sef = named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)
    mariadb.kill()
    try:
        with pytest.raises(SefError) as caught:
            sef.sweep_orphans()
    finally:
        mariadb.start()
    assert caught.value.status == 503
    assert world.state(forgotten) in ALIVE
    assert sef.sweep_orphans() == 1


@ON_MARIADB
def test_nothing_is_terminated_if_the_database_is_lost_after_the_listing(
    world: World, mariadb: MariaDB
) -> None:
    named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)

    def kill(**_: Any) -> None:
        mariadb.kill()

    broken = world.sef(world.cloud("after-call.ec2.DescribeInstances", kill))
    try:
        with pytest.raises(SefError):
            broken.sweep_orphans()
    finally:
        mariadb.start()
    assert world.state(forgotten) in ALIVE


@ON_MARIADB
def test_terminated_orphans_are_reported_when_ec2_fails_during_the_sweep(
    world: World,
) -> None:
    sef = named(world)
    forgotten = {orphan(world) for _ in range(2)}
    world.clock.advance(3600)
    calls: list[Any] = []

    def second_fails(**_: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            world.simulation.add_fault("TerminateInstances", error_code="ServiceUnavailable")

    broken = world.sef(world.cloud("after-call.ec2.TerminateInstances", second_fails))
    with pytest.raises(CloudError):
        broken.sweep_orphans()
    world.simulation.clear_faults()
    sef.sweep_orphans()
    assert {world.state(i) for i in forgotten} == {"terminated"}
    assert set(reported(world)) == forgotten


@ON_MARIADB
def test_a_running_instance_of_a_failed_replica_is_terminated(world: World) -> None:
    """A standby was missing for more than five minutes and became failed."""
    sef = world.sef()
    world.primary(sef)
    world.signal(sef, REBALANCE)
    world.simulation.set_options(visible_after_seconds=10**6)
    for _ in range(12):
        world.settle(sef, 31)
    [lost] = world.replicas("a", "failed")
    world.simulation.set_options(visible_after_seconds=0)
    world.settle(sef, 61)
    assert world.standby().instance_id != lost.instance_id
    assert world.state(lost.instance_id) in ALIVE
    world.clock.advance(300)
    assert sef.sweep_orphans() == 1
    assert world.state(lost.instance_id) not in ALIVE
    assert sef.sweep_orphans() == 0
    world.check()


@ON_MARIADB
def test_an_orphan_is_kept_if_the_primary_of_its_agent_does_not_run(world: World) -> None:
    """A database restored from a backup has a row from before the promotion."""
    sef = named(world)
    dead = world.primary(sef)
    serving = orphan(world)
    world.simulation.terminate(dead)
    world.clock.advance(3600)
    assert sef.sweep_orphans() == 0
    assert world.state(serving) in ALIVE
    sef.register_agent("a", {"instance_id": serving})
    world.clock.advance(3600)
    assert sef.sweep_orphans() == 0
    assert world.state(serving) in ALIVE


# A worker that dies during a sweep


def crash_sweep(world: World, on: str) -> None:
    """Run a sweep that crashes before or after its TerminateInstances call."""

    def crash(**_: Any) -> None:
        raise Crash

    with pytest.raises(Crash):
        world.sef(world.cloud(f"{on}.ec2.TerminateInstances", crash)).sweep_orphans()


def reported(world: World) -> list[str]:
    return [event.details["instance_id"] for event in world.events("orphan_terminated")]


@pytest.mark.parametrize("on", ["before-call", "after-call"])
def test_a_termination_interrupted_by_a_crash_is_reported_once(world: World, on: str) -> None:
    sef = named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)
    crash_sweep(world, on)
    assert reported(world) == []
    assert sef.sweep_orphans() == 1
    assert world.state(forgotten) == "terminated"
    assert reported(world) == [forgotten]
    world.clock.advance(60)
    assert sef.sweep_orphans() == 0
    assert reported(world) == [forgotten]


@ON_MARIADB
def test_an_orphan_registered_before_the_call_is_kept(world: World) -> None:
    sef = named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)
    crash_sweep(world, "before-call")
    sef.register_agent("b", {"instance_id": forgotten})
    assert sef.sweep_orphans() == 0
    assert world.state(forgotten) == "running"
    world.simulation.terminate(forgotten)
    world.clock.advance(7200)
    assert sef.sweep_orphans() == 0
    assert reported(world) == [], "SEF did not terminate it"


@ON_MARIADB
def test_a_missing_orphan_is_reported_after_an_hour(world: World) -> None:
    sef = named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)
    crash_sweep(world, "after-call")
    world.simulation.set_options(visible_after_seconds=10**6)
    assert sef.sweep_orphans() == 0
    assert reported(world) == []
    world.clock.advance(3700)
    assert sef.sweep_orphans() == 1
    assert reported(world) == [forgotten]


@ON_MARIADB
def test_a_termination_is_reported_once_although_the_listing_lags(world: World) -> None:
    sef = named(world)
    forgotten = orphan(world)
    then = time.time()
    world.clock.advance(3600)
    assert sef.sweep_orphans() == 1
    world.simulation.add_fault("DescribeInstances", as_of=then)
    world.clock.advance(60)
    assert sef.sweep_orphans() == 0
    assert reported(world) == [forgotten]


@ON_MARIADB
def test_terminations_are_kept_for_a_day(world: World) -> None:
    sef = named(world)
    orphan(world)
    world.clock.advance(3600)
    assert sef.sweep_orphans() == 1
    world.clock.advance(86_400)
    later = orphan(world)
    world.clock.advance(3600)
    assert sef.sweep_orphans() == 1
    assert [row.instance_id for row in world.rows("orphan_terminations", None)] == [later]


@ON_MARIADB
def test_an_orphan_registered_during_the_sweep_is_kept(world: World) -> None:
    named(world)
    forgotten = {orphan(world) for _ in range(2)}
    world.clock.advance(3600)
    operator = world.sef()

    def register_the_other(params: Any, **_: Any) -> None:
        [other] = forgotten - set(params["InstanceIds"])
        if not world.rows("agents", "b"):
            operator.register_agent("b", {"instance_id": other})

    sef = world.sef(world.cloud("provide-client-params.ec2.TerminateInstances", register_the_other))
    assert sef.sweep_orphans() == 1
    [ended] = reported(world)
    registered = world.agent("b").instance_id
    assert {ended, registered} == forgotten
    assert (world.state(ended), world.state(registered)) == ("terminated", "running")


@ON_MARIADB
def test_two_sweeps_at_once_report_an_orphan_once(world: World) -> None:
    other = named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)

    def overtake(**_: Any) -> None:
        other.sweep_orphans()

    sef = world.sef(world.cloud("before-call.ec2.TerminateInstances", overtake))
    assert sef.sweep_orphans() == 0
    assert reported(world) == [forgotten]
