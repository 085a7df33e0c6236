"""Instances that SEF launched and forgot: found by their tag, and terminated, but only those."""

import time
from typing import Any

import pytest

from sef.cloud.errors import CloudError
from sef.errors import SefError
from tests.harness import ALIVE, ONCE, REBALANCE, Crash, World, meanwhile
from tests.mariadb import MariaDB


def orphan(world: World, deployment: str | None = None, **tags: str) -> str:
    """Launch an instance with the tags of a SEF, of which no row tells."""
    name = deployment or world.rows("deployment", None)[0].name
    told = {"sef:managed": name, "sef:agent": "a", "sef:attempt": "forgotten-1"} | {
        k.replace("_", ":"): v for k, v in tags.items()
    }
    spec = [{"Key": key, "Value": value} for key, value in told.items()]
    return world.launch(TagSpecifications=[{"ResourceType": "instance", "Tags": spec}])


def named(world: World) -> Any:
    """A façade whose database has a name by now."""
    sef = world.sef()
    assert sef.sweep_orphans() == 0
    return sef


def test_one_that_no_row_knows_is_terminated_once_it_is_old(world: World) -> None:
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


@ONCE
def test_those_of_another_sef_and_of_nobody_are_left_alone(world: World) -> None:
    sef = named(world)
    others = [orphan(world, deployment="sef-of-somebody"), world.launch()]
    world.clock.advance(3600)
    assert sef.sweep_orphans() == 0
    assert {world.state(i) for i in others} == {"running"}


@ONCE
def test_what_any_row_knows_is_left_alone(world: World) -> None:
    sef = named(world)
    # A standby, a primary that was one, a former primary that still drains, a primary by hand.
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


@ONCE
def test_that_of_a_launch_whose_outcome_is_unknown_is_left_alone(world: World) -> None:
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


@ONCE
@pytest.mark.parametrize(
    "between", ["coalesce(launch_attempts.call_token", "agents.instance_id IN"]
)
def test_that_of_a_launch_whose_outcome_is_written_down_meanwhile_is_left_alone(
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


@ONCE
def test_one_that_is_retired_while_orphans_are_looked_for_is_none(world: World) -> None:
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


@ONCE
def test_while_ec2_cannot_be_read_nothing_is_terminated(world: World) -> None:
    sef = named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)
    world.simulation.add_fault("DescribeInstances", error_code="ServiceUnavailable")
    with pytest.raises(CloudError):
        sef.sweep_orphans()
    assert world.state(forgotten) in ALIVE
    world.simulation.clear_faults()
    assert sef.sweep_orphans() == 1


@ONCE
def test_while_the_database_cannot_be_read_nothing_is_terminated(
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


@ONCE
def test_the_database_goes_away_after_ec2_was_listed(world: World, mariadb: MariaDB) -> None:
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


@ONCE
def test_those_already_terminated_have_their_event_when_ec2_fails_half_way(
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
    told = {e.details["instance_id"] for e in world.events("orphan_terminated")}
    assert told == forgotten


@ONCE
def test_one_that_runs_though_its_row_says_it_was_lost_is_terminated(world: World) -> None:
    """EC2 did not show a standby for more than five minutes, and it was given up."""
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


@ONCE
def test_what_is_left_of_an_agent_whose_row_names_a_dead_primary_is_kept(world: World) -> None:
    """As after a restore of the database: its row is older than its promotion."""
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


# A backend that dies on the way


def dies(world: World, on: str) -> None:
    """A sweep that ends at an event of boto3's."""

    def crash(**_: Any) -> None:
        raise Crash

    with pytest.raises(Crash):
        world.sef(world.cloud(f"{on}.ec2.TerminateInstances", crash)).sweep_orphans()


def told(world: World) -> list[str]:
    return [event.details["instance_id"] for event in world.events("orphan_terminated")]


@pytest.mark.parametrize("on", ["before-call", "after-call"])
def test_a_termination_that_a_crash_cut_short_is_told_once(world: World, on: str) -> None:
    sef = named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)
    dies(world, on)
    assert told(world) == []
    assert sef.sweep_orphans() == 1
    assert world.state(forgotten) == "terminated"
    assert told(world) == [forgotten]
    world.clock.advance(60)
    assert sef.sweep_orphans() == 0
    assert told(world) == [forgotten]


@ONCE
def test_one_that_is_taken_before_the_call_was_made_is_left_alone(world: World) -> None:
    sef = named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)
    dies(world, "before-call")
    sef.register_agent("b", {"instance_id": forgotten})
    assert sef.sweep_orphans() == 0
    assert world.state(forgotten) == "running"
    world.simulation.terminate(forgotten)
    world.clock.advance(7200)
    assert sef.sweep_orphans() == 0
    assert told(world) == [], "it was not SEF that ended it"


@ONCE
def test_one_that_ec2_does_not_show_is_told_of_when_it_would_be_forgotten(world: World) -> None:
    sef = named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)
    dies(world, "after-call")
    world.simulation.set_options(visible_after_seconds=10**6)
    assert sef.sweep_orphans() == 0
    assert told(world) == []
    world.clock.advance(3700)
    assert sef.sweep_orphans() == 1
    assert told(world) == [forgotten]


@ONCE
def test_it_is_told_once_though_the_listing_lags(world: World) -> None:
    sef = named(world)
    forgotten = orphan(world)
    then = time.time()
    world.clock.advance(3600)
    assert sef.sweep_orphans() == 1
    world.simulation.add_fault("DescribeInstances", as_of=then)
    world.clock.advance(60)
    assert sef.sweep_orphans() == 0
    assert told(world) == [forgotten]


@ONCE
def test_terminations_are_remembered_for_a_day(world: World) -> None:
    sef = named(world)
    orphan(world)
    world.clock.advance(3600)
    assert sef.sweep_orphans() == 1
    world.clock.advance(86_400)
    later = orphan(world)
    world.clock.advance(3600)
    assert sef.sweep_orphans() == 1
    assert [row.instance_id for row in world.rows("orphan_terminations", None)] == [later]


@ONCE
def test_one_that_is_taken_while_others_are_terminated_is_left_alone(world: World) -> None:
    named(world)
    forgotten = {orphan(world) for _ in range(2)}
    world.clock.advance(3600)
    operator = world.sef()

    def take_the_other(params: Any, **_: Any) -> None:
        [other] = forgotten - set(params["InstanceIds"])
        if not world.rows("agents", "b"):
            operator.register_agent("b", {"instance_id": other})

    sef = world.sef(world.cloud("provide-client-params.ec2.TerminateInstances", take_the_other))
    assert sef.sweep_orphans() == 1
    [ended] = told(world)
    taken = world.agent("b").instance_id
    assert {ended, taken} == forgotten
    assert (world.state(ended), world.state(taken)) == ("terminated", "running")


@ONCE
def test_two_sweeps_at_once_tell_of_one_once(world: World) -> None:
    other = named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)

    def overtake(**_: Any) -> None:
        other.sweep_orphans()

    sef = world.sef(world.cloud("before-call.ec2.TerminateInstances", overtake))
    assert sef.sweep_orphans() == 0
    assert told(world) == [forgotten]
