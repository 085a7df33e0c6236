"""A call whose answer was lost is repeated: the repeat has no second effect."""

from collections.abc import Callable
from typing import Any

import pytest

from sef.errors import KeyInUse, SefError
from sef.operators import idempotency
from tests.harness import POOL, REBALANCE, TERMINATION, Crash, World

KEY = "the-call-of-this-morning"


def crash(**_: Any) -> None:
    raise Crash


def in_manual_mode(world: World) -> Any:
    sef = world.sef()
    world.primary(sef)
    assert sef.enable_manual_replica_mode("a")["replica"]["status"] == "ready"
    return sef


def once(do: Callable[[], object]) -> Callable[..., None]:
    """Return a hook that runs `do` at its first call only."""
    done: list[bool] = []

    def at_first(**_: Any) -> None:
        if not done:
            done.append(True)
            do()

    return at_first


def test_a_repeat_after_a_crash_behind_the_commit_gets_the_stored_answer(
    world: World,
) -> None:
    sef = in_manual_mode(world)
    standby = world.standby().instance_id
    dying = world.sef(world.cloud("before-call.ec2.RunInstances", crash))
    with pytest.raises(Crash):
        dying.execute_manual_switch("a", idempotency_key=KEY)
    world.settle(sef, 5)
    assert world.standby().status == "ready", "another switch would be possible"

    answer = sef.execute_manual_switch("a", idempotency_key=KEY)

    assert (answer["new_instance_id"], answer["epoch"]) == (standby, 2)
    assert sef.execute_manual_switch("a", idempotency_key=KEY) == answer
    assert len(world.promotions()) == 1
    world.check()


def test_a_crash_before_the_commit_leaves_no_effect(world: World) -> None:
    sef = in_manual_mode(world)
    dying = world.sef(world.cloud("before-call.ec2.DescribeInstances", crash))
    with pytest.raises(Crash):
        dying.execute_manual_switch("a", idempotency_key=KEY)
    with pytest.raises(KeyInUse):
        sef.execute_manual_switch("a", idempotency_key=KEY)
    assert not world.promotions()
    world.clock.advance(idempotency.CLAIM_DURATION.total_seconds())
    assert sef.execute_manual_switch("a", idempotency_key=KEY)["epoch"] == 2
    world.check()


def test_a_repeat_during_the_first_call_is_rejected(world: World) -> None:
    sef = in_manual_mode(world)
    errors: list[SefError] = []

    def repeat() -> None:
        with pytest.raises(KeyInUse) as caught:
            sef.execute_manual_switch("a", idempotency_key=KEY)
        errors.append(caught.value)

    slow = world.sef(world.cloud("before-call.ec2.DescribeInstances", once(repeat)))
    assert slow.execute_manual_switch("a", idempotency_key=KEY)["epoch"] == 2
    assert [(error.status, error.reason) for error in errors] == [(409, "idempotency_key_in_use")]
    assert len(world.promotions()) == 1


def test_a_worker_frozen_during_the_repeat_changes_nothing(world: World) -> None:
    sef = in_manual_mode(world)
    answers: list[Any] = []

    def repeat() -> None:
        world.clock.advance(idempotency.CLAIM_DURATION.total_seconds())
        answers.append(sef.execute_manual_switch("a", idempotency_key=KEY))
        world.settle(sef, 5)

    frozen = world.sef(world.cloud("before-call.ec2.DescribeInstances", once(repeat)))
    answers.append(frozen.execute_manual_switch("a", idempotency_key=KEY))
    assert answers[0] == answers[1]
    assert (answers[0]["epoch"], len(world.promotions())) == (2, 1)
    world.check()


def test_a_switch_that_failed_in_ec2_may_be_repeated_at_once(world: World) -> None:
    sef = in_manual_mode(world)
    world.simulation.add_fault("DescribeInstances", error_code="RequestLimitExceeded")
    with pytest.raises(SefError, match="RequestLimitExceeded"):
        sef.execute_manual_switch("a", idempotency_key=KEY)
    world.simulation.clear_faults()
    assert sef.execute_manual_switch("a", idempotency_key=KEY)["epoch"] == 2


def test_keys_are_deleted_after_a_week(world: World) -> None:
    sef = in_manual_mode(world)
    sef.execute_manual_switch("a", idempotency_key=KEY)
    world.clock.advance(idempotency.RETENTION.total_seconds())
    sef.cleanup_old_buffers()
    assert [row.idempotency_key for row in world.rows("idempotency_keys")] == [KEY]
    world.clock.advance(1)
    sef.cleanup_old_buffers()
    assert not world.rows("idempotency_keys")


@pytest.mark.parametrize("announced", [REBALANCE, TERMINATION])
def test_a_repeated_signal_gets_the_result_of_the_first(world: World, announced: str) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    at = world.clock()
    dying = world.sef(world.cloud("before-call.ec2.RunInstances", crash))
    with pytest.raises(Crash):
        world.signal(dying, announced, at=at, instance_id=primary)
    [incident] = world.rows("incidents")
    answers = [world.signal(sef, announced, at=at, instance_id=primary) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["incident_id"] == incident.id
    [signal] = world.rows("spot_interruption_events")
    assert signal.times_received == 4
    assert len(world.replicas()) == 1
    world.check()


def test_a_repeated_report_gets_the_record_of_the_first(world: World) -> None:
    sef = world.sef()
    payload = {"spot_price": 0.05, "pool_id": POOL, "timestamp": world.clock().isoformat()}
    first = sef.process_incoming_data("a", "pricing", payload)
    again = world.sef().process_incoming_data("a", "pricing", payload)
    assert again == first
    assert len(world.rows("pricing_reports")) == 1
