"""An unannounced loss: EC2 and the silence of the agent prove it, and SEF fails over."""

from datetime import timedelta
from typing import Any

import pytest

from sef.cloud.errors import CloudError
from tests.harness import ALIVE, ONCE, POOL, REBALANCE, TERMINATION, World

SILENCE = 420


def report(world: World, sef: Any, agent_id: str = "a", **fields: Any) -> None:
    payload = {"spot_price": 0.05, "pool_id": POOL, "timestamp": world.clock().timestamp()}
    assert sef.process_incoming_data(agent_id, "pricing", payload | fields)["status"] != "rejected"


def detect_and_reconcile(world: World, sef: Any) -> int:
    losses: int = sef.detect_losses()
    sef.reconcile()
    return losses


def test_it_replaces_a_primary_that_is_gone_and_silent(world: World) -> None:
    sef = world.sef()
    lost = world.primary(sef)
    report(world, sef)
    world.simulation.terminate(lost)
    world.clock.advance(SILENCE + 1)
    assert detect_and_reconcile(world, sef) == 1

    new = world.agent().instance_id
    assert new != lost
    assert world.state(new) == "running"
    assert world.pool_of(new) != POOL
    [incident] = world.rows("incidents")
    assert (incident.kind, incident.status) == ("loss", "done")
    assert incident.new_instance_id == new
    [signal] = world.rows("spot_interruption_events")
    assert signal.signal_type == "unannounced-loss"
    assert signal.failover_completed
    assert signal.failover_time_ms >= 0
    [event] = world.events("unannounced_loss")
    assert event.severity == "error"
    assert "terminated" in event.message
    assert detect_and_reconcile(world, sef) == 0
    world.check(gone={lost})


@ONCE
def test_a_silent_agent_with_a_running_instance_is_not_a_loss(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    report(world, sef)
    world.clock.advance(86_400)
    assert detect_and_reconcile(world, sef) == 0
    assert world.agent().instance_id == primary
    assert not world.rows("incidents")


@ONCE
def test_a_gone_instance_of_a_reporting_agent_is_not_a_loss(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.terminate(primary)
    for _ in range(5):
        world.clock.advance(SILENCE - 1)
        report(world, sef)
        assert detect_and_reconcile(world, sef) == 0
    assert world.agent().instance_id == primary


@ONCE
def test_a_report_of_the_standby_does_not_count_for_the_primary(world: World) -> None:
    sef = world.sef()
    lost = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    report(world, sef)
    world.simulation.terminate(lost)
    world.clock.advance(SILENCE - 10)
    report(world, sef, is_replica=True, pool_id="m5.large.us-east-1b")
    world.clock.advance(11)
    standby = world.standby().instance_id
    assert detect_and_reconcile(world, sef) == 1
    assert world.agent().instance_id == standby
    world.check(gone={lost})


@ONCE
def test_a_new_primary_has_time_to_report(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.simulation.terminate(primary)
    world.clock.advance(SILENCE - 1)
    assert detect_and_reconcile(world, sef) == 0
    world.clock.advance(2)
    assert detect_and_reconcile(world, sef) == 1


@ONCE
def test_a_promoted_standby_that_ec2_does_not_show_any_more_is_a_loss(world: World) -> None:
    """EC2 shows an instance for about an hour after its end. An instance of SEF did exist."""
    sef = world.sef()
    world.primary(sef)
    world.signal(sef, TERMINATION)
    promoted = world.agent().instance_id
    world.clock.advance(SILENCE + 1)
    world.simulation.set_options(visible_after_seconds=10**6)
    for _ in range(9):
        assert sef.detect_losses() == 0
        assert sef.detect_losses() == 0  # checks of one moment count as one
        world.clock.advance(31)
    assert sef.detect_losses() == 1
    world.simulation.set_options(visible_after_seconds=0)
    [loss] = [i for i in world.rows("incidents") if i.kind == "loss"]
    assert loss.instance_id == promoted


@ONCE
def test_an_instance_that_ec2_never_showed_is_not_a_loss(world: World) -> None:
    sef = world.sef()
    sef.register_agent("a", {"instance_id": "i-0123456789abcdef0", "pool_id": POOL})
    world.clock.advance(86_400)
    assert detect_and_reconcile(world, sef) == 0
    assert not world.rows("incidents")


@ONCE
def test_an_agent_without_an_instance_is_not_examined(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.register_agent("a", {"instance_id": None})
    world.simulation.terminate(primary)
    world.clock.advance(86_400)
    assert detect_and_reconcile(world, sef) == 0


@ONCE
def test_it_detects_no_loss_while_ec2_cannot_be_read(world: World) -> None:
    sef = world.sef()
    lost = world.primary(sef)
    world.simulation.terminate(lost)
    world.clock.advance(SILENCE + 1)
    world.simulation.throttle("DescribeInstances")
    with pytest.raises(CloudError):
        sef.detect_losses()
    assert not world.rows("incidents")
    world.simulation.clear_faults()
    assert detect_and_reconcile(world, sef) == 1
    world.check(gone={lost})


@ONCE
def test_a_recommendation_that_ends_in_a_loss_is_one_incident(world: World) -> None:
    sef = world.sef()
    lost = world.primary(sef)
    answer = world.signal(sef, REBALANCE)
    standby = world.standby().instance_id
    world.simulation.terminate(lost)
    world.clock.advance(SILENCE + 1)
    assert detect_and_reconcile(world, sef) == 1
    assert world.agent().instance_id == standby
    [incident] = world.rows("incidents")
    assert incident.id == answer["incident_id"]
    assert (incident.kind, incident.status) == ("loss", "done")
    world.check(gone={lost})


@ONCE
def test_a_notice_after_the_loss_changes_nothing(world: World) -> None:
    sef = world.sef()
    lost = world.primary(sef)
    world.simulation.terminate(lost)
    world.clock.advance(SILENCE + 1)
    detect_and_reconcile(world, sef)
    new = world.agent().instance_id
    answer = world.signal(sef, TERMINATION, instance_id=lost)
    assert answer["action"] == "promoted"
    assert world.agent().instance_id == new
    assert len(world.promotions()) == 1
    world.check(gone={lost})


@ONCE
def test_two_workers_detect_a_loss_once(world: World) -> None:
    one, other = world.sef(), world.sef()
    lost = world.primary(one)
    world.simulation.terminate(lost)
    world.clock.advance(SILENCE + 1)
    assert [one.detect_losses(), other.detect_losses()] == [1, 0]
    one.reconcile()
    other.reconcile()
    assert len(world.promotions()) == 1
    assert [i.state for i in world.tagged()].count("running") == 1
    assert world.state(lost) not in ALIVE


@ONCE
def test_it_detects_a_loss_while_the_agents_row_keeps_changing(world: World) -> None:
    sef = world.sef()
    lost = world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    sef.enable_manual_replica_mode("a")
    world.simulation.terminate(lost)
    for _ in range(8):
        world.settle(sef, 61)
    assert world.agent().updated_at > world.clock() - timedelta(seconds=SILENCE)
    assert detect_and_reconcile(world, sef) == 1
    world.simulation.clear_faults()
    world.settle(sef, 61)
    assert world.agent().instance_id != lost
