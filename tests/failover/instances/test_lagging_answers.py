"""SEF concludes nothing from EC2 answers that lag, lack fields or lack a running instance.

A wrong conclusion would terminate a serving instance, or leave an unknown instance running.
"""

import time
from typing import Any

import pytest

from sef.errors import SefError
from tests.failover.instances.test_orphans import named, orphan
from tests.failover.test_losses import report
from tests.harness import ALIVE, ONCE, REBALANCE, TERMINATION, World

FIELDS = ["instanceState", "placement", "launchTime", "tagSet", "instanceType", "instanceId"]
PASSES = 6


def run_all_jobs(world: World, sef: Any, count: int = PASSES, seconds: float = 31) -> None:
    """Run all periodic jobs `count` times; none of them fails."""
    for _ in range(count):
        world.settle(sef, seconds)
        sef.sweep_orphans()
        sef.detect_losses()


def protected_agent(world: World) -> tuple[Any, str, str]:
    """Return an agent's primary and ready standby, both older than the minimum age of an orphan."""
    sef = world.sef()
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    world.clock.advance(372)
    run_all_jobs(world, sef, 1)
    return sef, primary, str(world.standby().instance_id)


@ONCE
@pytest.mark.parametrize("lacking", [*[[field] for field in FIELDS], FIELDS])
def test_a_healthy_agent_is_unchanged_when_answers_lack_fields(
    world: World, lacking: list[str]
) -> None:
    sef, primary, standby = protected_agent(world)
    world.simulation.add_fault("DescribeInstances", omit=lacking)
    run_all_jobs(world, sef)
    assert world.agent().instance_id == primary
    assert world.standby().instance_id == standby
    assert {world.state(primary), world.state(standby)} == {"running"}
    assert not world.rows("incidents")
    world.check()


@ONCE
@pytest.mark.parametrize("lacking", ["item", "instancesSet", "instanceId"])
def test_a_standby_that_is_missing_for_minutes_is_kept(world: World, lacking: str) -> None:
    sef, _, standby = protected_agent(world)
    world.simulation.add_fault("DescribeInstances", omit=[lacking])
    run_all_jobs(world, sef, 8)
    assert world.standby().instance_id == standby
    world.simulation.clear_faults()
    run_all_jobs(world, sef, 1)
    assert world.standby().misses == 0
    assert len(world.alive()) == 1
    world.check()


@ONCE
def test_a_sweep_fails_on_an_answer_without_a_list(world: World) -> None:
    sef, primary, standby = protected_agent(world)
    world.simulation.add_fault("DescribeInstances", omit=["reservationSet"])
    with pytest.raises(SefError) as caught:
        sef.sweep_orphans()
    assert "IncompleteAnswer" in str(caught.value)
    world.settle(sef, 31)
    world.simulation.clear_faults()
    assert {world.state(primary), world.state(standby)} == {"running"}
    run_all_jobs(world, sef, 2)
    world.check()


@ONCE
def test_a_standby_that_is_missing_now_and_then_is_kept(world: World) -> None:
    """EC2 answers from several copies of its data, of which one has fallen behind."""
    sef, _, standby = protected_agent(world)
    for _ in range(4):
        world.simulation.add_fault("DescribeInstances", omit=["item"])
        run_all_jobs(world, sef, 4)
        world.simulation.clear_faults()
        run_all_jobs(world, sef, 1)
    assert world.standby().instance_id == standby
    assert len(world.tagged()) == 1


@ONCE
def test_a_manual_switch_fails_until_the_state_of_the_standby_is_known(world: World) -> None:
    sef, primary, standby = protected_agent(world)
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
def test_an_automatic_switch_waits_for_the_state_of_the_standby_and_an_emergency_does_not(
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
def test_a_launch_stays_open_while_answers_lack_its_instance(world: World, lacking: str) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.throttle("DescribeInstances")
    world.signal(sef, REBALANCE)
    world.simulation.clear_faults()
    world.simulation.add_fault("RunInstances", omit=["instanceId"], count=2)
    world.settle(sef, 10)
    assert [a.status for a in world.attempts()] == ["open"]
    # SEF has read the launch parameters before; now EC2 does not return the instance.
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
def test_no_standby_is_launched_like_an_incomplete_primary(world: World, lacking: str) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    like = {key: world.described(primary)[key] for key in ("ImageId", "VpcId", "SecurityGroups")}
    world.simulation.add_fault("DescribeInstances", omit=[lacking])
    world.signal(sef, REBALANCE)
    assert world.tagged() == []
    world.simulation.clear_faults()
    world.settle(sef, 10)
    launched = world.described(str(world.standby().instance_id))
    assert {key: launched[key] for key in like} == like
    world.check()


@ONCE
def test_a_standby_released_before_ec2_knows_it_is_terminated_later(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.set_options(visible_after_seconds=1000)
    sef.enable_manual_replica_mode("a")
    sef.disable_manual_replica_mode("a")
    run_all_jobs(world, sef, 3)
    [released] = world.replicas()
    assert released.status == "releasing"
    world.simulation.set_options(visible_after_seconds=0)
    world.settle(sef, 31)
    assert world.alive() == []
    [released] = world.replicas()
    assert released.status == "terminated"
    world.check()


@ONCE
def test_a_launch_that_stays_missing_is_replaced_and_terminated_later(
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
def test_a_former_primary_without_auto_terminate_is_kept_when_answers_lack_it(world: World) -> None:
    """Without auto-terminate the former primary belongs to its operator."""
    sef = world.sef()
    world.primary(sef)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    world.signal(sef, REBALANCE)
    former = world.agent().instance_id
    world.clock.advance(10)
    world.signal(sef, REBALANCE, instance_id=former)
    assert world.agent().instance_id != former
    world.simulation.add_fault("DescribeInstances", omit=["item"])
    # A standby would be lost after 5 minutes.
    run_all_jobs(world, sef, 12)
    world.simulation.clear_faults()
    run_all_jobs(world, sef, 2)
    assert world.state(former) == "running"
    world.check()


@ONCE
def test_a_former_primary_stopped_by_its_operator_is_kept(world: World) -> None:
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
    world.clock.advance(372)
    run_all_jobs(world, sef, 2)
    assert world.state(former) == "stopped"


@ONCE
@pytest.mark.parametrize("lacking", ["tagSet", "item"])
def test_a_former_primary_is_not_terminated_before_its_tags_are_known(
    world: World, lacking: str
) -> None:
    foreign = world.launch(
        TagSpecifications=[
            {
                "ResourceType": "instance",
                "Tags": [{"Key": "sef:managed", "Value": "sef-of-others"}],
            }
        ]
    )
    sef = world.sef()
    sef.register_agent("a", {"instance_id": foreign, "pool_id": world.pool_of(foreign)})
    sef.enable_manual_replica_mode("a")
    world.simulation.throttle("TerminateInstances")
    world.simulation.throttle("CreateTags")
    sef.execute_manual_switch("a")
    world.simulation.clear_faults()
    world.simulation.add_fault("DescribeInstances", omit=[lacking])
    run_all_jobs(world, sef, 4)
    world.simulation.clear_faults()
    run_all_jobs(world, sef, 4)
    tags = {tag["Key"]: tag["Value"] for tag in world.described(foreign)["Tags"]}
    assert tags["sef:managed"] == "sef-of-others"
    assert world.state(foreign) == "running"


@ONCE
@pytest.mark.parametrize("lacking", ["instanceState", "launchTime", "tagSet"])
def test_an_orphan_is_kept_while_answers_lack_its_fields(world: World, lacking: str) -> None:
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
def test_a_sweep_finds_the_orphans_of_all_pages(world: World, size: int) -> None:
    sef = named(world)
    forgotten = {orphan(world) for _ in range(3)}
    world.clock.advance(3600)
    world.simulation.add_fault("DescribeInstances", page_size=size)
    assert sef.sweep_orphans() == 3
    assert {world.state(i) for i in forgotten} == {"terminated"}


@ONCE
def test_a_sweep_with_an_old_listing_terminates_no_primary(world: World) -> None:
    """EC2 lists an instance in an old state. The rows decide, and SEF reads them last."""
    sef, primary, standby = protected_agent(world)
    then = time.time()
    world.simulation.add_fault("*", as_of=then)
    new = sef.execute_manual_switch("a")["new_instance_id"]
    assert new == standby
    run_all_jobs(world, sef, 4)
    assert world.agent().instance_id == standby
    assert world.state(standby) == "running"
    world.simulation.clear_faults()
    run_all_jobs(world, sef, 4)
    assert world.state(primary) not in ALIVE
    assert world.standby().status == "ready"
    world.check()


@ONCE
def test_a_silent_primary_that_answers_lack_is_not_lost(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.signal(sef, TERMINATION)
    promoted = world.agent().instance_id
    world.clock.advance(421)
    for lacking in ("instanceState", "item"):
        world.simulation.add_fault("DescribeInstances", omit=[lacking])
        run_all_jobs(world, sef, 5)
        world.simulation.clear_faults()
        run_all_jobs(world, sef, 1)
    assert world.agent().instance_id == promoted
    report(world, sef)
    world.check()


@ONCE
def test_a_truncated_answer_leaves_the_launch_open(world: World) -> None:
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
