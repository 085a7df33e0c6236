"""The timeline of incidents: planned switchovers, losses, errors, cutovers, notifications."""

from typing import Any

import pytest

from tests.failover.cutover.cutover_targets import ALL, SAME_ZONE, Belongings
from tests.harness import ALIVE, ONCE, REBALANCE, TERMINATION, Crash, World
from tests.webhook_receiver import Receiver


def timeline_of(sef: Any, incident_id: str) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """Return the incident, the types of its entries in order, and its entries by type."""
    story = sef.get_incident(incident_id)
    types = [entry["type"] for entry in story["timeline"]]
    return story["incident"], types, {entry["type"]: entry for entry in story["timeline"]}


@ONCE
def test_drill_has_its_duration_and_the_calls_that_terminated_the_old_primary(
    world: World,
) -> None:
    sef = world.sef(simulator_pending_seconds=600)
    old = world.primary(sef)
    sef.register_agent("a", {"drill_interval": 86_400})
    world.clock.advance(86_400)
    assert sef.plan_switchovers() == 1
    world.settle(sef, 0)
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 12.5)
    world.settle(sef, 61)
    [row] = world.rows("incidents")

    incident, types, entries = timeline_of(sef, row.id)

    assert incident["kind"] == "drill"
    assert incident["failover_time_ms"] == 12_500
    assert incident["summary"] == (
        f"a drill: {incident['new_instance_id']} in {incident['new_pool_id']} replaced {old} "
        "in 12.500 s"
    )
    assert " in 12.500 s: a planned switchover" in entries["failover_completed"]["sentence"]
    assert types[0] == "switchover_planned"
    assert types[-3:] == ["CreateTags", "TerminateInstances", "primary_retired"]
    assert entries["TerminateInstances"]["details"]["instance_id"] == old
    assert entries["TerminateInstances"]["details"]["error"] is None
    assert entries["replica_ready"]["latency_ms"] == 12_500
    assert sef.get_incident(row.id)["budget"] is None, "a drill has no deadline"


@ONCE
def test_loss_has_the_state_that_ec2_showed(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.client.terminate_instances(InstanceIds=[primary])
    world.clock.advance(1000)
    assert sef.detect_losses() == 1
    world.settle(sef, 3)
    [row] = world.rows("incidents")
    incident, types, entries = timeline_of(sef, row.id)
    assert types[:2] == ["unannounced-loss", "unannounced_loss"]
    assert entries["unannounced_loss"]["kind"] == "decision"
    assert entries["unannounced_loss"]["details"]["ec2_state"] in ("shutting-down", "terminated")
    assert incident["summary"].startswith("an instance was lost without a notice: ")


@ONCE
def test_promotion_of_an_unchecked_standby_has_the_error(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.signal(sef, REBALANCE)
    world.simulation.add_fault("DescribeInstances", error_code="RequestLimitExceeded")
    answer = world.signal(sef, TERMINATION)
    world.simulation.clear_faults()
    assert answer["action"] == "promoted"
    _, _, entries = timeline_of(sef, answer["incident_id"])
    assert "RequestLimitExceeded" in entries["failover_completed"]["details"]["unseen"]


@ONCE
def test_unanswered_call_is_part_of_the_timeline(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code="RequestLimitExceeded")
    answer = world.signal(sef, TERMINATION)
    world.simulation.clear_faults()
    _, types, entries = timeline_of(sef, answer["incident_id"])
    assert entries["cloud_unavailable"]["details"]["code"] == "RequestLimitExceeded"
    assert entries["RunInstances"]["latency_ms"] is None
    assert entries["RunInstances"]["sentence"].endswith("not answered yet")
    world.settle(sef, 20)  # later another pool would be tried beside it
    _, types, entries = timeline_of(sef, answer["incident_id"])
    assert entries["RunInstances"]["latency_ms"] == 20_000
    assert types.count("RunInstances") == 1


@ONCE
def test_changed_decision_has_its_inputs(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.past(20, 0)
    first = world.signal(sef, REBALANCE)
    assert first["action"] == "monitor"
    world.clock.advance(60)
    again = world.signal(world.sef(rebalance_risk_threshold=0.05), REBALANCE)
    assert again["incident_id"] == first["incident_id"]
    assert again["action"] == "standby_ready"
    decisions = [
        entry["details"]
        for entry in sef.get_incident(first["incident_id"])["timeline"]
        if entry["type"] == "rebalance_recommendation"
    ]
    assert [(d["goal_before"], d["goal"], d["threshold"]) for d in decisions] == [
        ("monitor", "monitor", 0.3),
        ("monitor", "standby", 0.05),
    ]


@ONCE
def test_timeline_continues_after_a_crash(world: World) -> None:
    def crash(**_: Any) -> None:
        raise Crash

    sef = world.sef()
    world.primary(sef)
    dying = world.sef(world.cloud("after-call.ec2.RunInstances", crash))
    with pytest.raises(Crash):
        world.signal(dying, TERMINATION)
    [row] = world.rows("incidents")
    incident, types, _ = timeline_of(sef, row.id)
    assert incident["status"] == "open"
    assert types[-1] == "RunInstances"
    world.settle(sef, 5)
    incident, types, _ = timeline_of(sef, row.id)
    assert incident["status"] == "done"
    assert types.count("RunInstances") == types.count("failover_completed") == 1


@ONCE
def test_cutover_steps_have_the_sentences_of_the_plan_and_their_latency(world: World) -> None:
    sef = world.sef(spot_pools=",".join(SAME_ZONE))
    primary = world.primary(sef)
    sef.register_agent("a", {"cutover": Belongings(world, primary).targets})
    planned = world.signal(sef, TERMINATION, instance_id=primary, dry_run=True)
    assert not world.rows("cutovers")
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["action"] == "promoted"
    story = sef.get_incident(answer["incident_id"])
    steps = [entry for entry in story["timeline"] if entry["type"] == "cutover_step"]
    assert all(entry["latency_ms"] is not None for entry in steps)
    expected = [step["sentence"] for step in planned["plan"] if step["step"] == "cutover"]
    assert len(expected) >= len(ALL)
    carried_out = [entry["sentence"].partition(": ")[0] for entry in steps]
    assert sorted(carried_out) == sorted(expected)


@ONCE
def test_manual_switch_does_not_change_the_timeline_of_an_earlier_incident(
    world: World,
) -> None:
    sef = world.sef()
    answer = world.signal(sef, TERMINATION, instance_id=world.primary(sef))
    sef.enable_manual_replica_mode("a")
    _, before, _ = timeline_of(sef, answer["incident_id"])
    sef.execute_manual_switch("a")
    assert world.state(answer["new_instance_id"]) not in ALIVE
    assert timeline_of(sef, answer["incident_id"])[1] == before
    [end] = world.events("replica_terminated")
    assert (end.incident_id, end.details["replica_id"]) == (None, answer["replica_id"])


@ONCE
def test_incident_has_the_end_of_its_instance_without_its_launch(world: World) -> None:
    """SEF launched the lost primary in an earlier incident, which has the launch."""
    sef = world.sef(probation_seconds=0, interrupted_pool_cooldown_seconds=0)
    first = world.signal(sef, TERMINATION, instance_id=world.primary(sef))
    lost = first["new_instance_id"]
    second = world.signal(sef, TERMINATION, instance_id=lost)
    _, before, _ = timeline_of(sef, first["incident_id"])
    world.simulation.terminate(lost)
    world.settle(sef, 40)
    assert timeline_of(sef, first["incident_id"])[1] == before
    _, types, entries = timeline_of(sef, second["incident_id"])
    assert lost in entries["replica_terminated"]["sentence"]
    assert types.count("RunInstances") == 1


@ONCE
def test_notifications_are_in_the_timeline_once_they_are_sent(world: World) -> None:
    receiver = Receiver("of-the-timeline")
    try:
        sef = world.sef(
            notification_urls=receiver.url.replace("http", "json"),
            allowed_private_networks="127.0.0.0/8",
        )
        world.primary(sef)
        answer = world.signal(sef, TERMINATION)
        story = sef.get_incident(answer["incident_id"])
        assert not [entry for entry in story["timeline"] if entry["kind"] == "notice"]
        sef.deliver_notifications()
    finally:
        receiver.stop()
    story = sef.get_incident(answer["incident_id"])
    notices = [entry for entry in story["timeline"] if entry["kind"] == "notice"]
    assert [entry["type"] for entry in notices] == ["detection", "switch", "outcome"]
    assert all(entry["sentence"].startswith("sent to ") for entry in notices)
    assert all(entry["details"]["status"] == "sent" for entry in notices)
