"""EC2's answers lag, lack fields or miss an instance that runs: nothing is concluded from that.

A wrong conclusion would end an instance that serves, or leave one that nobody knows of.
"""

import time
from typing import Any

import pytest

from sef.errors import SefError
from tests.failover.instances.test_orphans import named, orphan
from tests.failover.test_losses import report
from tests.harness import ALIVE, ONCE, REBALANCE, TERMINATION, World

FIELDS = ["instanceState", "placement", "launchTime", "tagSet", "instanceType", "instanceId"]
ROUNDS = 6


def rounds(world: World, sef: Any, count: int = ROUNDS, seconds: float = 31) -> None:
    """All periodic jobs, again and again; EC2 answers, so none of them fails."""
    for _ in range(count):
        world.settle(sef, seconds)
        sef.sweep_orphans()
        sef.detect_losses()


def protected(world: World) -> tuple[Any, str, str]:
    """An agent with a primary and a ready standby, both older than what SEF calls young."""
    sef = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    rounds(world, sef, 12)
    return sef, primary, str(world.standby().instance_id)


@ONCE
@pytest.mark.parametrize("lacking", [*[[field] for field in FIELDS], FIELDS])
def test_a_healthy_agent_is_left_alone_whatever_answers_lack(
    world: World, lacking: list[str]
) -> None:
    sef, primary, standby = protected(world)
    world.simulation.add_fault("DescribeInstances", omit=lacking)
    rounds(world, sef)
    assert world.agent().instance_id == primary
    assert world.standby().instance_id == standby
    assert {world.state(primary), world.state(standby)} == {"running"}
    assert not world.rows("incidents")
    world.check()


@ONCE
@pytest.mark.parametrize("lacking", ["item", "instancesSet", "instanceId"])
def test_a_standby_that_is_not_shown_for_minutes_is_kept(world: World, lacking: str) -> None:
    sef, _, standby = protected(world)
    world.simulation.add_fault("DescribeInstances", omit=[lacking])
    rounds(world, sef, 8)
    assert world.standby().instance_id == standby
    world.simulation.clear_faults()
    rounds(world, sef, 1)
    assert world.standby().misses == 0
    assert len(world.alive()) == 1
    world.check()


@ONCE
def test_an_answer_without_any_list_is_no_answer(world: World) -> None:
    sef, primary, standby = protected(world)
    world.simulation.add_fault("DescribeInstances", omit=["reservationSet"])
    with pytest.raises(SefError) as caught:
        sef.sweep_orphans()
    assert "IncompleteAnswer" in str(caught.value)
    world.settle(sef, 31)
    world.simulation.clear_faults()
    assert {world.state(primary), world.state(standby)} == {"running"}
    rounds(world, sef, 2)
    world.check()


@ONCE
def test_a_standby_that_is_shown_now_and_then_is_never_given_up(world: World) -> None:
    """As when one of several copies that answer has fallen behind."""
    sef, _, standby = protected(world)
    for _ in range(8):
        world.simulation.add_fault("DescribeInstances", omit=["item"])
        rounds(world, sef, 4)
        world.simulation.clear_faults()
        rounds(world, sef, 1)
    assert world.standby().instance_id == standby
    assert len(world.tagged()) == 1


@ONCE
def test_a_switch_waits_for_an_answer_about_the_standby(world: World) -> None:
    sef, primary, standby = protected(world)
    for lacking in ("instanceState", "item"):
        world.simulation.add_fault("DescribeInstances", omit=[lacking])
        with pytest.raises(SefError) as caught:
            sef.execute_manual_switch("a")
        assert caught.value.status == 503
        assert world.agent().instance_id == primary
        world.simulation.clear_faults()
    assert sef.execute_manual_switch("a")["new_instance_id"] == standby
    world.check()


@ONCE
@pytest.mark.parametrize("lacking", ["instanceState", "item"])
def test_an_automatic_switch_waits_for_it_and_an_emergency_does_not(
    world: World, lacking: str
) -> None:
    sef = world.sef()
    world.primary(sef)
    world.signal(sef, REBALANCE)
    standby = world.standby().instance_id
    world.simulation.add_fault("DescribeInstances", omit=[lacking])
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    world.settle(sef, 10)
    assert world.promotions() == []
    assert world.signal(sef, TERMINATION)["new_instance_id"] == standby
    world.simulation.clear_faults()
    world.settle(sef, 10)
    world.check()


@ONCE
@pytest.mark.parametrize("lacking", ["instanceState", "placement", "instancesSet"])
def test_a_launch_is_waited_for_while_answers_lack_it(world: World, lacking: str) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.throttle("DescribeInstances")
    world.signal(sef, REBALANCE)
    world.simulation.clear_faults()
    world.simulation.add_fault("RunInstances", omit=["instanceId"], count=2)
    world.settle(sef, 10)
    assert [a.status for a in world.attempts()] == ["open"]
    # What the launch is to be like is known by now; how it goes is not told.
    world.simulation.add_fault("DescribeInstances", omit=[lacking])
    for _ in range(3):
        world.settle(sef, 10)
    world.simulation.clear_faults()
    world.settle(sef, 10)
    assert world.standby().status == "ready"
    assert len(world.tagged()) == 1
    world.check()


@ONCE
@pytest.mark.parametrize(
    "lacking", ["imageId", "instanceType", "groupSet", "vpcId", "availabilityZone"]
)
def test_nothing_is_launched_like_a_primary_that_is_told_of_in_part(
    world: World, lacking: str
) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    like = {key: world.described(primary)[key] for key in ("ImageId", "VpcId", "SecurityGroups")}
    world.simulation.add_fault("DescribeInstances", omit=[lacking])
    world.signal(sef, REBALANCE)
    assert world.tagged() == []
    world.simulation.clear_faults()
    world.settle(sef, 10)
    made = world.described(str(world.standby().instance_id))
    assert {key: made[key] for key in like} == like
    world.check()


@ONCE
def test_what_is_released_before_ec2_knows_it_does_not_go_on_running(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.set_options(visible_after_seconds=1000)
    sef.enable_manual_replica_mode("a")
    sef.disable_manual_replica_mode("a")
    rounds(world, sef, 3)
    [released] = world.replicas()
    assert released.status == "releasing"
    world.simulation.set_options(visible_after_seconds=0)
    world.settle(sef, 31)
    assert world.alive() == []
    [released] = world.replicas()
    assert released.status == "terminated"
    world.check()


@ONCE
def test_a_launch_that_ec2_never_shows_is_replaced_and_does_not_go_on_running(
    world: World,
) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.set_options(visible_after_seconds=1000)
    world.signal(sef, TERMINATION)
    hidden = str(world.standby().instance_id)
    for _ in range(12):
        world.settle(sef, 31)
    assert str(world.standby().instance_id) != hidden
    world.simulation.set_options(visible_after_seconds=0)
    for _ in range(2):
        world.settle(sef, 31)
    sef.sweep_orphans()
    assert world.state(hidden) not in ALIVE
    assert len(world.promotions()) == 1
    world.check()


@ONCE
def test_a_former_primary_that_is_kept_is_kept_though_answers_lack_it(world: World) -> None:
    """It is its operator's: nobody asked SEF to terminate it."""
    sef = world.sef()
    world.primary(sef)
    for mode in ("auto-switch",):
        sef.set_auto_mode("a", mode, enabled=True)
    world.signal(sef, REBALANCE)
    former = world.agent().instance_id
    world.clock.advance(10)
    world.signal(sef, REBALANCE, instance_id=former)
    assert world.agent().instance_id != former
    world.simulation.add_fault("DescribeInstances", omit=["item"])
    rounds(world, sef, 30)
    world.simulation.clear_faults()
    rounds(world, sef, 5)
    assert world.state(former) == "running"
    world.check()


@ONCE
def test_a_former_primary_that_its_operator_stopped_is_kept(world: World) -> None:
    sef = world.sef(allow_on_demand=True)
    world.primary(sef)
    for pool in world.simulation.pools():
        world.simulation.set_pool(pool.pool, capacity=False)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    world.signal(sef, REBALANCE)
    former = world.agent().instance_id
    world.clock.advance(10)
    world.signal(sef, REBALANCE, instance_id=former)
    assert world.agent().instance_id != former
    world.client.stop_instances(InstanceIds=[former])
    rounds(world, sef, 12)
    assert world.state(former) == "stopped"


@ONCE
@pytest.mark.parametrize("lacking", ["tagSet", "item"])
def test_a_former_primary_is_not_terminated_before_its_tags_are_known(
    world: World, lacking: str
) -> None:
    others = world.launch(
        TagSpecifications=[
            {
                "ResourceType": "instance",
                "Tags": [{"Key": "sef:managed", "Value": "sef-of-others"}],
            }
        ]
    )
    sef = world.sef()
    sef.register_agent("a", {"instance_id": others, "pool_id": world.pool_of(others)})
    sef.enable_manual_replica_mode("a")
    world.simulation.throttle("TerminateInstances")
    world.simulation.throttle("CreateTags")
    sef.execute_manual_switch("a")
    world.simulation.clear_faults()
    world.simulation.add_fault("DescribeInstances", omit=[lacking])
    rounds(world, sef, 4)
    world.simulation.clear_faults()
    rounds(world, sef, 4)
    tags = {tag["Key"]: tag["Value"] for tag in world.described(others)["Tags"]}
    assert tags["sef:managed"] == "sef-of-others"
    assert world.state(others) == "running"


@ONCE
@pytest.mark.parametrize("lacking", ["instanceState", "launchTime", "tagSet"])
def test_an_orphan_is_terminated_only_on_a_whole_answer(world: World, lacking: str) -> None:
    sef = named(world)
    forgotten = orphan(world)
    world.clock.advance(3600)
    world.simulation.add_fault("DescribeInstances", omit=[lacking])
    assert sef.sweep_orphans() == 0
    world.simulation.clear_faults()
    assert sef.sweep_orphans() == 1
    assert world.state(forgotten) not in ALIVE


@ONCE
@pytest.mark.parametrize("size", [0, 1, 2])
def test_orphans_on_every_page_are_found(world: World, size: int) -> None:
    sef = named(world)
    forgotten = {orphan(world) for _ in range(3)}
    world.clock.advance(3600)
    world.simulation.add_fault("DescribeInstances", page_size=size)
    assert sef.sweep_orphans() == 3
    assert {world.state(i) for i in forgotten} == {"terminated"}


@ONCE
def test_the_listing_of_orphans_lags(world: World) -> None:
    """It shows an instance without the row's present state: the rows decide, and are read last."""
    sef, primary, standby = protected(world)
    then = time.time()
    world.simulation.add_fault("*", as_of=then)
    new = sef.execute_manual_switch("a")["new_instance_id"]
    assert new == standby
    rounds(world, sef, 4)
    assert world.agent().instance_id == standby
    assert world.state(standby) == "running"
    world.simulation.clear_faults()
    rounds(world, sef, 4)
    assert world.state(primary) not in ALIVE
    assert world.standby().status == "ready"
    world.check()


@ONCE
def test_a_silent_primary_that_answers_lack_is_no_loss(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.signal(sef, TERMINATION)
    promoted = world.agent().instance_id
    world.clock.advance(421)
    for lacking in ("instanceState", "item"):
        world.simulation.add_fault("DescribeInstances", omit=[lacking])
        rounds(world, sef, 5)
        world.simulation.clear_faults()
        rounds(world, sef, 1)
    assert world.agent().instance_id == promoted
    report(world, sef)
    world.check()


@ONCE
def test_a_body_that_is_cut_off_is_unknown(world: World) -> None:
    sef = world.sef()
    world.primary(sef)

    def cut(response_dict: dict[str, Any], **_: Any) -> None:
        response_dict["body"] = response_dict["body"][:200]

    broken = world.sef(world.cloud("before-parse.ec2.RunInstances", cut))
    world.signal(broken, TERMINATION)
    assert [a.status for a in world.attempts()] == ["open"]
    world.settle(sef, 7)
    assert len(world.tagged()) == len(world.promotions()) == 1
    world.check()
