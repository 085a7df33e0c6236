"""An instance is heard, not a name: the loss of a primary is found whoever else reports."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.harness import ALIVE, ONCE, POOL, REBALANCE, TERMINATION, World

DAY = 86_400
MINUTES = 60
FOUND_WITHIN = 15 * MINUTES
"""The threshold of silence, 420 s by default, and one round of these tests of 300 s, with room."""

Send = Callable[[World, Any, dict[str, Any]], None]


def fields(world: World, **more: Any) -> dict[str, Any]:
    return {"spot_price": 0.04, "pool_id": POOL, "timestamp": world.clock().isoformat()} | more


def report(world: World, sef: Any, agent: str = "a", **more: Any) -> None:
    answer = sef.process_incoming_data(agent, "pricing", fields(world, **more))
    assert answer["status"] != "rejected"


def in_batch(world: World, sef: Any, more: dict[str, Any]) -> None:
    answer = sef.process_batch([{"agent_id": "a"} | fields(world, **more)])
    assert answer["rejected"] == []


def alone(world: World, sef: Any, more: dict[str, Any]) -> None:
    report(world, sef, **more)


def found_after(world: World, sef: Any, while_it_waits: Callable[[], None]) -> int | None:
    """Return the seconds until a loss is found; None if it is not found in six hours."""
    for number in range(72):
        world.settle(sef, 300)
        while_it_waits()
        if sef.detect_losses():
            return 300 * (number + 1)
    return None


def switched(world: World, sef: Any) -> tuple[str, str]:
    """Switch automatically; return the former primary, which runs on, and the new one."""
    primary = world.primary(sef)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    report(world, sef, instance_id=primary)
    world.signal(sef, REBALANCE, instance_id=primary)
    for _ in range(3):
        world.settle(sef, 10)
    new = world.agent().instance_id
    assert new != primary
    return primary, new


@pytest.mark.parametrize("send", [alone, in_batch])
@pytest.mark.parametrize("says_replica", [True, False, None])
@ONCE
def test_the_former_primary_reports_on_and_the_new_one_is_lost(
    world: World, send: Send, says_replica: bool | None
) -> None:
    sef = world.sef(probation_seconds=0)
    former, new = switched(world, sef)
    claim = {} if says_replica is None else {"is_replica": says_replica}
    report(world, sef, instance_id=new)
    world.simulation.terminate(new)
    found = found_after(world, sef, lambda: send(world, sef, {"instance_id": former} | claim))
    assert found is not None
    assert found <= FOUND_WITHIN


@ONCE
def test_nobody_names_itself_and_the_former_primary_reports_on(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    report(world, sef)
    sef.execute_manual_switch("a")
    sef.disable_manual_replica_mode("a")
    new = world.agent().instance_id
    assert new != primary
    report(world, sef)
    world.settle(sef, 600)
    world.simulation.terminate(new)
    found = found_after(world, sef, lambda: report(world, sef))
    assert found is not None
    assert found <= FOUND_WITHIN


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("send", [alone, in_batch])
@ONCE
def test_a_standby_that_does_not_say_that_it_is_one(world: World, send: Send, named: bool) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    report(world, sef, instance_id=primary)
    standby = sef.enable_manual_replica_mode("a")["replica"]["instance_id"]
    world.simulation.terminate(primary)
    more = {"instance_id": standby} if named else {}
    found = found_after(world, sef, lambda: send(world, sef, more))
    assert found is not None
    assert found <= FOUND_WITHIN
    world.settle(sef, 1)
    assert world.agent().instance_id == standby


@ONCE
def test_the_price_of_a_named_standby_is_the_replicas(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    standby = sef.enable_manual_replica_mode("a")["replica"]["instance_id"]
    for _ in range(2):  # sent again, it stays the replica's
        report(world, sef, instance_id=standby, spot_price=0.05)
        report(world, sef, instance_id=primary, spot_price=0.06)
    [point] = world.rows("pricing_reports")
    assert (float(point.primary_price), float(point.replica_price)) == (0.06, 0.05)
    at = world.clock().isoformat()
    world.clock.advance(60)
    sef.execute_manual_switch("a")
    report(world, sef, instance_id=standby, spot_price=0.05, timestamp=at)
    [point] = world.rows("pricing_reports")
    assert (float(point.primary_price), float(point.replica_price)) == (0.06, 0.05)


@pytest.mark.parametrize("ago", [7 * 3600, 3600, 8 * MINUTES])
@pytest.mark.parametrize("named", [True, False])
@ONCE
def test_a_spool_brings_reports_of_a_dead_primary(world: World, ago: int, named: bool) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    report(world, sef, instance_id=primary)
    world.simulation.terminate(primary)
    more = {"instance_id": primary} if named else {}

    def old() -> None:
        at = (world.clock() - timedelta(seconds=ago)).isoformat()
        report(world, sef, timestamp=at, **more)

    died = world.clock()
    found = None
    for number in range(24):
        world.settle(sef, 300)
        if world.clock() - timedelta(seconds=ago) <= died:
            old()
        if sef.detect_losses():
            found = 300 * (number + 1)
            break
    assert found is not None
    assert found <= FOUND_WITHIN


@ONCE
def test_an_import_of_history_is_no_sign_of_life(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    world.simulation.terminate(primary)
    world.clock.advance(600)
    start = world.clock() - timedelta(days=2)
    lines = [
        json.loads(
            json.dumps(
                {"agent_id": "a", "instance_id": primary}
                | fields(world, timestamp=(start + timedelta(minutes=5 * n)).isoformat())
            )
        )
        for n in range(500)
    ]
    assert sef.process_batch(lines)["rejected"] == []
    assert sef.detect_losses() == 1


@ONCE
def test_a_report_from_the_future_counts_as_now(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    world.clock.advance(600)
    ahead = (world.clock() + timedelta(seconds=290)).isoformat()
    report(world, sef, instance_id=primary, timestamp=ahead)
    world.simulation.terminate(primary)
    world.clock.advance(400)
    assert sef.detect_losses() == 0
    world.clock.advance(30)
    assert sef.detect_losses() == 1


@pytest.mark.parametrize("says_replica", [True, False])
@ONCE
def test_a_primary_that_reports_is_heard_though_it_was_a_replica(
    world: World, says_replica: bool
) -> None:
    """Its agent was started as a standby, and goes on saying so after the promotion."""
    sef = world.sef(probation_seconds=0)
    _, new = switched(world, sef)
    world.client.stop_instances(InstanceIds=[new])
    for _ in range(12):
        world.settle(sef, 120)
        report(world, sef, instance_id=new, is_replica=says_replica)
        assert sef.detect_losses() == 0


@ONCE
def test_the_only_reporter_need_not_name_itself(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    world.client.stop_instances(InstanceIds=[primary])
    for _ in range(12):
        world.settle(sef, 120)
        report(world, sef)
        assert sef.detect_losses() == 0
    world.clock.advance(421)
    assert sef.detect_losses() == 1


@ONCE
def test_agents_are_heard_apart(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    first, second = world.primary(sef, "a"), world.primary(sef, "b")
    for instance in (first, second):
        world.simulation.terminate(instance)
    world.clock.advance(421)
    report(world, sef, "b", instance_id=second)
    report(world, sef, "b", instance_id=first)  # one that "b" never had
    assert sef.detect_losses() == 1
    assert [i.agent_id for i in world.rows("incidents", None)] == ["a"]


@ONCE
def test_reports_of_each_second_store_who_was_heard_now_and_then(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    report(world, sef, instance_id=primary)
    [before] = [row for row in world.rows("agent_instances") if row.instance_id == primary]
    for _ in range(20):
        world.clock.advance(1)
        report(world, sef, instance_id=primary)
    [row] = [row for row in world.rows("agent_instances") if row.instance_id == primary]
    assert row.heard_at == before.heard_at
    world.clock.advance(30)
    report(world, sef, instance_id=primary)
    [row] = [row for row in world.rows("agent_instances") if row.instance_id == primary]
    assert row.heard_at > before.heard_at


@pytest.mark.parametrize("kind", ["drill", "return"])
@ONCE
def test_a_planned_switchover_hides_no_loss(world: World, kind: str) -> None:
    sef = world.sef(probation_seconds=0, simulator_pending_seconds=100_000)
    if kind == "drill":
        primary = world.primary(sef)
        sef.register_agent("a", {"drill_interval": DAY})
        world.clock.advance(DAY)
    else:
        world.simulation.set_options(pending_seconds=0)
        own = world.primary(sef)
        world.simulation.add_fault(
            "RunInstances", market="spot", error_code="InsufficientInstanceCapacity"
        )
        answer = world.signal(sef, TERMINATION, instance_id=own)
        primary = answer["new_instance_id"]
        world.simulation.clear_faults()
        world.simulation.set_options(pending_seconds=100_000)
        world.clock.advance(DAY)
    report(world, sef, instance_id=primary)
    assert sef.plan_switchovers() == 1
    world.settle(sef, 5)
    world.simulation.terminate(primary)
    found = None
    for number in range(80):
        world.settle(sef, 30)
        if sef.detect_losses():
            found = 30 * (number + 1)
            break
    assert found is not None
    assert found <= 480
    [loss] = [i for i in world.rows("incidents") if i.kind == "loss"]
    assert (loss.instance_id, loss.status) == (primary, "open")


def lost_while_nothing_can_be_launched(world: World, sef: Any) -> str:
    primary = world.primary(sef)
    report(world, sef, instance_id=primary)
    world.client.stop_instances(InstanceIds=[primary])
    world.settle(sef, 430)
    world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    assert sef.detect_losses() == 1
    world.settle(sef, 10)
    return primary


@pytest.mark.parametrize("reports", [True, False])
@ONCE
def test_a_primary_that_was_stopped_and_started_is_not_replaced(
    world: World, reports: bool
) -> None:
    sef = world.sef(probation_seconds=0)
    primary = lost_while_nothing_can_be_launched(world, sef)
    world.client.start_instances(InstanceIds=[primary])
    for _ in range(3):
        world.settle(sef, 60)
        if reports:
            report(world, sef, instance_id=primary)
        sef.detect_losses()
    world.simulation.clear_faults()
    for _ in range(3):
        world.settle(sef, 301)
        sef.detect_losses()
    assert world.agent().instance_id == primary
    [incident] = world.rows("incidents")
    assert (incident.kind, incident.status) == ("loss", "released")
    assert "runs again" in incident.reason
    assert world.alive() == []


@ONCE
def test_it_runs_again_just_when_its_successor_becomes_ready(world: World) -> None:
    """No round of `detect_losses` lies between the start and the promotion."""
    sef = world.sef(probation_seconds=0)
    primary = lost_while_nothing_can_be_launched(world, sef)
    world.client.start_instances(InstanceIds=[primary])
    world.simulation.clear_faults()
    for _ in range(3):
        world.settle(sef, 301)
    assert world.agent().instance_id == primary
    assert world.promotions() == []
    assert world.alive() == []


@ONCE
def test_it_is_stopped_again_after_it_ran_again(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = lost_while_nothing_can_be_launched(world, sef)
    world.client.start_instances(InstanceIds=[primary])
    sef.detect_losses()
    assert [i.status for i in world.rows("incidents")] == ["released"]
    world.simulation.clear_faults()
    world.client.stop_instances(InstanceIds=[primary])
    world.settle(sef, 430)
    assert sef.detect_losses() == 1
    world.settle(sef, 10)
    assert world.agent().instance_id != primary


@ONCE
def test_a_notice_for_a_primary_that_runs_again_is_served(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = lost_while_nothing_can_be_launched(world, sef)
    world.client.start_instances(InstanceIds=[primary])
    world.signal(sef, TERMINATION, instance_id=primary)
    sef.detect_losses()
    world.simulation.clear_faults()
    world.settle(sef, 30)
    assert world.agent().instance_id != primary


@ONCE
def test_a_rebooted_primary_is_not_replaced(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    world.client.reboot_instances(InstanceIds=[primary])
    world.settle(sef, 3600)
    assert sef.detect_losses() == 0
    assert world.state(primary) in ALIVE
    assert world.rows("incidents") == []


@pytest.mark.parametrize("every", [300])
@pytest.mark.parametrize("timed", ["without a time", "with the time of the call", "once announced"])
@ONCE
def test_a_repeated_recommendation_does_not_keep_a_standby_for_ever(
    world: World, timed: str, every: int
) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    announced = world.clock().isoformat()
    ready = []
    for number in range(6 * 3600 // every):
        world.clock.advance(every)
        payload: dict[str, Any] = {"instance_id": primary}
        if timed == "with the time of the call":
            payload["timestamp"] = world.clock().isoformat()
        elif timed == "once announced":
            payload["timestamp"] = announced
        sef.handle_rebalance_recommendation("a", payload)
        if number % 5 == 0:
            sef.reconcile()
            ready.append(world.standby() is not None)
    assert ready[0]
    assert not any(ready[len(ready) // 2 :])
    assert len(world.rows("incidents")) == 1


@ONCE
def test_a_recommendation_after_a_silence_is_a_new_one(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    sef.handle_rebalance_recommendation("a", {"instance_id": primary})
    world.settle(sef, 7300)
    assert [i.status for i in world.rows("incidents")] == ["released"]
    world.settle(sef, 7300)
    sef.handle_rebalance_recommendation("a", {"instance_id": primary})
    assert world.standby() is not None


@pytest.mark.parametrize("has_end", [True, False])
@ONCE
def test_a_notice_that_was_announced_before_a_switch_is_about_the_former(
    world: World, has_end: bool
) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    announced = world.clock()
    world.clock.advance(5)
    new = sef.execute_manual_switch("a")["new_instance_id"]
    world.clock.advance(5)
    end = {"termination_time": (announced + timedelta(seconds=120)).isoformat()} if has_end else {}
    answer = world.signal(sef, TERMINATION, at=announced, **end)
    assert answer["action"] == "ignored"
    assert world.agent().instance_id == new
    assert world.rows("incidents")[0].subject == primary


@ONCE
def test_a_notice_that_was_announced_after_a_switch_is_about_the_new_primary(
    world: World,
) -> None:
    sef = world.sef(probation_seconds=0)
    world.primary(sef)
    sef.enable_manual_replica_mode("a")
    new = sef.execute_manual_switch("a")["new_instance_id"]
    world.settle(sef, 10)
    world.signal(sef, TERMINATION)
    world.settle(sef, 10)
    assert world.agent().instance_id != new


@ONCE
def test_another_end_is_announced_to_the_new_primary_at_once(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    end = world.clock() + timedelta(seconds=120)
    first = {"termination_time": end.isoformat()}
    new = world.signal(sef, TERMINATION, **first)["new_instance_id"]
    world.clock.advance(30)
    assert world.signal(sef, TERMINATION, **first)["new_instance_id"] == new  # a repeat
    assert world.agent().instance_id == new
    second = {"termination_time": (end + timedelta(seconds=45)).isoformat()}
    world.signal(sef, TERMINATION, **second)
    world.settle(sef, 10)
    assert world.agent().instance_id not in (primary, new)
