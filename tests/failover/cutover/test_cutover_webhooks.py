"""The webhooks before and after a cutover."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import Belongings, cutover_of, fail_over, steps_of
from tests.harness import ALIVE, ONCE, TERMINATION, World
from tests.webhook_receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver("hook")
    yield receiver
    receiver.stop()


def owner(
    world: World, receiver: Receiver, **settings: Any
) -> tuple[SmartEmergencyFallback, str, Belongings]:
    sef = world.sef(allowed_private_networks="127.0.0.0/8", **settings)
    primary = world.primary(sef)
    belongings = Belongings(world, primary, "elastic_ip")
    hooks = {"before": f"{receiver.url}/before", "after": f"{receiver.url}/after"}
    targets = {"elastic_ip": belongings.allocation_id, "webhooks": hooks}
    sef.register_agent("a", {"cutover": targets})
    return sef, primary, belongings


def test_webhooks_are_sent_before_and_after_the_moves(world: World, receiver: Receiver) -> None:
    sef, primary, belongings = owner(world, receiver)
    held: list[set[str]] = []

    def note(request: Any) -> None:
        held.append(belongings.held(primary) & {"elastic_ip"})
        request.send_response(204)
        request.end_headers()

    receiver.answers = note
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert [path for path, _, _ in receiver.got] == ["/hook/before", "/hook/after"]
    assert held == [{"elastic_ip"}, set()]
    cutover = cutover_of(sef)
    for (_, headers, body), event in zip(receiver.got, ["before", "after"], strict=True):
        assert headers["Idempotency-Key"] == f"{cutover['id']}-{event}"
        assert body | {"steps": []} == {
            "event": f"cutover.{event}",
            "agent_id": "a",
            "incident_id": answer["incident_id"],
            "epoch": 2,
            "old_instance_id": primary,
            "new_instance_id": answer["new_instance_id"],
            "pool_id": world.agent().pool_id,
            "deadline": cutover["deadline"],
            "steps": [],
        }
    [step] = [s for s in receiver.got[1][2]["steps"] if s["kind"] == "elastic-ip"]
    assert step == {
        "kind": "elastic-ip",
        "target": belongings.allocation_id,
        "status": "done",
        "error": None,
    }
    assert cutover["status"] == "done"


@ONCE
def test_unanswered_webhook_is_sent_again_with_the_same_key(
    world: World, receiver: Receiver
) -> None:
    sef, primary, belongings = owner(world, receiver)
    receiver.status = 503
    new = fail_over(world, sef, primary)
    world.settle(sef, 2)
    assert "elastic_ip" in belongings.held(primary), "the moves wait for the webhook"
    receiver.status = 200
    world.settle(sef, 2)
    assert "elastic_ip" in belongings.held(new)
    keys = [headers["Idempotency-Key"] for path, headers, _ in receiver.got if "before" in path]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert cutover_of(sef)["status"] == "done"


@ONCE
def test_failed_before_webhook_is_not_sent_again_and_needs_no_operator(
    world: World, receiver: Receiver
) -> None:
    sef, primary, belongings = owner(world, receiver)
    receiver.status = 404
    new = fail_over(world, sef, primary)
    receiver.status = 200
    world.settle(sef, 60)
    world.settle(sef, 60)
    assert "elastic_ip" in belongings.held(new)
    assert steps_of(sef)["webhook-before"] == "failed"
    assert cutover_of(sef)["status"] == "done"
    assert [path for path, _, _ in receiver.got].count("/hook/before") == 1


@ONCE
def test_before_webhook_is_skipped_with_seconds_left(world: World, receiver: Receiver) -> None:
    sef, primary, _ = owner(world, receiver)
    end = (world.clock() + timedelta(seconds=5)).isoformat()
    fail_over(world, sef, primary, termination_time=end)
    assert [path for path, _, _ in receiver.got] == ["/hook/after"]
    assert steps_of(sef)["webhook-before"] == "skipped"
    assert cutover_of(sef)["status"] == "done"


@ONCE
def test_old_primary_ends_before_the_after_webhook_is_sent(
    world: World, receiver: Receiver
) -> None:
    sef, primary, _ = owner(world, receiver)
    sef.enable_manual_replica_mode("a")

    def refuse_the_last(request: Any) -> None:
        request.send_response(500 if "after" in request.path else 200)
        request.end_headers()

    receiver.answers = refuse_the_last
    sef.execute_manual_switch("a")
    assert world.state(primary) not in ALIVE
    assert steps_of(sef)["webhook-after"] == "pending"
    for _ in range(5):
        world.settle(sef, 30)
    assert cutover_of(sef)["status"] == "needs_operator"
    receiver.answers = None
    world.settle(sef, 90)
    assert cutover_of(sef)["status"] == "done"


@ONCE
def test_webhook_to_a_private_address_is_not_sent(world: World, receiver: Receiver) -> None:
    sef, primary, belongings = owner(world, receiver)
    guarded = world.sef()
    new = fail_over(world, guarded, primary)
    assert receiver.got == []
    assert "elastic_ip" in belongings.held(new)
    [event] = world.events("operator_needed")
    assert "SEF_ALLOWED_PRIVATE_NETWORKS" in event.message
    world.settle(sef, 90)
    assert [path for path, _, _ in receiver.got] == ["/hook/after"]
