"""Delivery of notifications: once for each kind and channel, in order, despite all failures."""

from collections.abc import Iterator
from functools import partial
from threading import Barrier, Event, Thread
from typing import Any

import pytest
from sqlalchemy import update

from sef.db import tables
from sef.db.database import VersionConflict
from sef.notifications.events import Event as SystemEvent
from sef.notifications.events import write_events
from sef.notifications.messages import TRIES
from sef.notifications.outbox import of_incident
from sef.terms import NotificationKind
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import SAME_ZONE, Belongings
from tests.harness import ONCE, REBALANCE, TERMINATION, Crash, World
from tests.waiting import LIMIT, until
from tests.webhook_receiver import Receiver

LOOPBACK = "127.0.0.0/8"


@pytest.fixture(autouse=True)
def _each_pass_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pass wait for its channels, however busy the machine is."""
    monkeypatch.setattr("sef.notifications.deliver.PASS_TIMEOUT", LIMIT)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver("first")
    yield receiver
    receiver.stop()


@pytest.fixture
def other() -> Iterator[Receiver]:
    receiver = Receiver("second")
    yield receiver
    receiver.stop()


def url(receiver: Receiver) -> str:
    return receiver.url.replace("http", "json")


def worker(world: World, *receivers: Receiver, **settings: Any) -> SmartEmergencyFallback:
    notify = " ".join(url(receiver) for receiver in receivers)
    return world.sef(
        **{"notification_urls": notify, "allowed_private_networks": LOOPBACK} | settings
    )


def alert(sef: SmartEmergencyFallback, world: World, name: str) -> None:
    event = SystemEvent(name, f"{name} happened", notification=NotificationKind.ALERT)
    sef._database.write(write_events, [event], world.clock())


def kinds(receiver: Receiver) -> list[str]:
    """Return the kinds of the messages that a receiver got, in order."""
    lines = [line for _, _, body in receiver.got for line in body["message"].splitlines()]
    return [line.removeprefix("moment: ") for line in lines if line.startswith("moment: ")]


def deliveries(world: World) -> list[Any]:
    return world.rows("notification_deliveries", None)


def until_all_sent(world: World, sef: SmartEmergencyFallback, passes: int = 30) -> None:
    for _ in range(passes):
        sef.deliver_notifications()
        if all(row.status != "pending" for row in deliveries(world)):
            return
        world.clock.advance(1000)
    pytest.fail("messages are still pending")


def test_an_interruption_sends_detection_switch_and_outcome(
    world: World, receiver: Receiver
) -> None:
    sef = worker(world, receiver)
    old = world.primary(sef)
    answer = world.signal(sef, TERMINATION)
    assert sef.deliver_notifications() == 3
    assert kinds(receiver) == ["detection", "switch", "outcome"]
    bodies = [body for _, _, body in receiver.got]
    assert {body["title"] for body in bodies} == {f"[SEF] a: {answer['incident_id']}"}
    assert all(f"incident: {answer['incident_id']}" in body["message"] for body in bodies)
    assert bodies[0]["message"].startswith(f"termination-notice for {old}: ")
    assert f"{answer['new_instance_id']} replaces {old}" in bodies[1]["message"]
    summary = sef.get_incident(answer["incident_id"])["incident"]["summary"]
    ended = f"interruption is done: {summary}; {old} is left to AWS or its operator\n"
    assert bodies[2]["message"].startswith(ended)
    assert [body["type"] for body in bodies] == ["warning", "info", "success"]
    assert sef.deliver_notifications() == 0
    with world.connect() as connection:
        rows = of_incident(connection, answer["incident_id"])
    assert [(row["kind"], row["deliveries"][0]["status"]) for row in rows] == [
        ("detection", "sent"),
        ("switch", "sent"),
        ("outcome", "sent"),
    ]


@ONCE
def test_a_hundred_repeated_signals_send_each_message_once(
    world: World, receiver: Receiver, other: Receiver
) -> None:
    sef = worker(world, receiver, other)
    world.primary(sef)
    at = world.clock()
    for number in range(100):
        world.signal(sef, (REBALANCE, TERMINATION)[number % 2], at=at)
        if number % 10 == 0:
            sef.deliver_notifications()
    sef.deliver_notifications()
    # The recommendation and the notice are two matters.
    expected = ["detection", "detection", "switch", "outcome"]
    assert (kinds(receiver), kinds(other)) == (expected, expected)


@ONCE
def test_old_messages_are_deleted_if_none_is_pending_and_their_incident_is_closed(
    world: World, receiver: Receiver
) -> None:
    sef = worker(world, receiver, notification_retention_days=2)
    receiver.status = 500
    alert(sef, world, "never_sent")
    sef.deliver_notifications()
    receiver.status = 200
    over = world.signal(sef, TERMINATION, instance_id=world.primary(sef))
    sef.deliver_notifications()
    lost = world.primary(sef, "b")
    world.simulation.add_fault("RunInstances", error_code="UnauthorizedOperation")
    world.signal(sef, TERMINATION, "b", instance_id=lost)
    sef.deliver_notifications()
    kept = len(world.rows("notifications", None))
    world.clock.advance(2 * 86_400 - 60)
    sef.cleanup_old_buffers()
    assert len(world.rows("notifications", None)) == kept
    world.clock.advance(120)
    world.sef(notification_retention_days=0).cleanup_old_buffers()
    assert len(world.rows("notifications", None)) == kept
    sef.cleanup_old_buffers()
    left = world.rows("notifications", None)
    assert {row.incident_id for row in left} == {None, world.rows("incidents", "b")[0].id}
    assert over["incident_id"] not in {row.thread for row in deliveries(world)}
    assert {row.notification_id for row in deliveries(world)} == {row.id for row in left}


@ONCE
def test_a_rolled_back_event_sends_nothing(world: World, receiver: Receiver) -> None:
    sef = worker(world, receiver)

    def work(connection: Any) -> None:
        event = SystemEvent(
            "failover_completed", "it did not", "a", notification=NotificationKind.SWITCH
        )
        write_events(connection, [event], world.clock())
        raise RuntimeError

    with pytest.raises(RuntimeError):
        sef._database.write(work)
    sef.deliver_notifications()
    assert (receiver.got, world.rows("notifications", None)) == ([], [])


@ONCE
def test_a_promotion_that_lost_a_race_sends_each_message_once(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sef.failover import reconcile

    lost: list[bool] = []
    real = reconcile.promote

    def promote(connection: Any, *arguments: Any, **named: Any) -> Any:
        promotion = real(connection, *arguments, **named)
        if not lost:
            lost.append(True)
            raise VersionConflict
        return promotion

    monkeypatch.setattr(reconcile, "promote", promote)
    sef = worker(world, receiver)
    world.primary(sef)
    world.signal(sef, TERMINATION)
    sef.deliver_notifications()
    assert lost
    assert kinds(receiver) == ["detection", "switch", "outcome"]


@ONCE
def test_a_recommendation_that_is_only_monitored_sends_nothing(
    world: World, receiver: Receiver
) -> None:
    sef = worker(world, receiver, rebalance_risk_threshold=1.0)
    world.primary(sef)
    assert world.signal(sef, REBALANCE)["action"] == "monitor"
    assert sef.deliver_notifications() == 0
    assert world.signal(sef, TERMINATION)["action"] == "promoted"
    sef.deliver_notifications()
    assert kinds(receiver) == ["detection", "switch", "outcome"]


@ONCE
@pytest.mark.parametrize(
    ("severity", "expected"),
    [
        ("info", ["recommendation", "detection", "switch", "outcome"]),
        ("warning", ["detection", "switch", "outcome"]),
        ("error", []),
    ],
)
def test_the_setting_is_the_minimum_severity_that_starts_a_thread(
    world: World, receiver: Receiver, severity: str, expected: list[str]
) -> None:
    sef = worker(world, receiver, rebalance_risk_threshold=1.0, notification_min_severity=severity)
    world.primary(sef)
    world.signal(sef, REBALANCE)
    world.signal(sef, TERMINATION)
    sef.deliver_notifications()
    assert kinds(receiver) == expected


@ONCE
def test_a_released_standby_ends_the_thread(world: World, receiver: Receiver) -> None:
    sef = worker(world, receiver)
    world.primary(sef)
    world.signal(sef, REBALANCE)
    sef.deliver_notifications()
    for _ in range(3):
        world.settle(sef, 7300)
    sef.deliver_notifications()
    assert kinds(receiver) == ["detection", "outcome"]


@ONCE
def test_an_incident_that_needs_an_operator_sends_one_message_about_it(
    world: World, receiver: Receiver
) -> None:
    sef = worker(world, receiver)
    world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code="UnauthorizedOperation")
    world.signal(sef, TERMINATION)
    for _ in range(5):
        world.settle(sef, 60)
    sef.deliver_notifications()
    assert kinds(receiver) == ["detection", "operator"]
    world.simulation.clear_faults()
    for _ in range(6):
        world.settle(sef, 60)
    sef.deliver_notifications()
    assert kinds(receiver) == ["detection", "operator", "switch", "outcome"]


@ONCE
def test_two_workers_at_once_send_each_message_once(world: World, receiver: Receiver) -> None:
    sefs = [worker(world, receiver) for _ in range(2)]
    for number in range(10):
        alert(sefs[0], world, f"alert_{number}")
    together = Barrier(2)

    def deliver(sef: SmartEmergencyFallback) -> None:
        together.wait()
        for _ in range(3):
            sef.deliver_notifications()

    threads = [Thread(target=deliver, args=(sef,)) for sef in sefs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(body["title"] for _, _, body in receiver.got) == sorted(
        f"[SEF] alert {number}" for number in range(10)
    )


@ONCE
def test_a_crash_after_sending_sends_at_most_once_more(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying, sef = worker(world, receiver), worker(world, receiver)
    alert(sef, world, "first_alert")
    alert(sef, world, "second_alert")

    def crash(*arguments: Any, **named: Any) -> None:
        raise Crash

    with monkeypatch.context() as context:
        context.setattr("sef.notifications.deliver.deliveries.finish", crash)
        with pytest.raises(Crash):
            dying.deliver_notifications()
    assert [body["title"] for _, _, body in receiver.got] == ["[SEF] first alert"]
    # Its claim has not expired, so the other worker sends only the second message.
    sef.deliver_notifications()
    assert [body["title"] for _, _, body in receiver.got][1:] == ["[SEF] second alert"]
    world.clock.advance(121)
    sef.deliver_notifications()
    world.clock.advance(121)
    sef.deliver_notifications()
    assert [body["title"] for _, _, body in receiver.got][2:] == ["[SEF] first alert"]


@ONCE
def test_a_channel_that_recovers_gets_everything_in_order(
    world: World, receiver: Receiver, other: Receiver
) -> None:
    sef = worker(world, receiver, other)
    world.primary(sef)
    receiver.status = 503
    world.signal(sef, TERMINATION)
    delays = []
    for _ in range(8):
        sef.deliver_notifications()
        due = [row.next_at for row in deliveries(world) if row.error]
        delays.append((min(due) - world.clock()).total_seconds())
        world.clock.advance(delays[-1])
    assert kinds(other) == ["detection", "switch", "outcome"], (
        "a failed channel does not delay the other one"
    )
    assert delays[0] >= 2.5
    assert all(delay <= 900 for delay in delays)
    receiver.status = 200
    receiver.got.clear()
    until_all_sent(world, sef)
    assert kinds(receiver) == ["detection", "switch", "outcome"]
    assert {row.status for row in deliveries(world)} == {"sent"}
    assert {row.error for row in deliveries(world)} == {None}


@ONCE
def test_a_message_that_always_fails_delays_the_others_only_briefly(
    world: World, receiver: Receiver
) -> None:
    """Its channel rejects it at every attempt, and accepts the messages behind it."""
    sef = worker(world, receiver)
    world.primary(sef)
    incident = world.signal(sef, TERMINATION)["incident_id"]

    def reject_detection(handler: Any) -> None:
        is_detection = "moment: detection" in receiver.got[-1][2]["message"]
        handler.send_response(400 if is_detection else 200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    receiver.answers = reject_detection
    alert(sef, world, "another")
    sef.deliver_notifications()
    assert "alert" in kinds(receiver), "another thread does not wait"
    for _ in range(3):
        world.clock.advance(60)
        sef.deliver_notifications()
    assert {"switch", "outcome"} <= set(kinds(receiver))
    until_all_sent(world, sef)
    with world.connect() as connection:
        rows = of_incident(connection, incident)
    assert [row["deliveries"][0]["status"] for row in rows] == ["failed", "sent", "sent"]
    assert rows[0]["deliveries"][0]["attempts"] == TRIES
    (event,) = world.events("notification_failed")
    assert (event.severity, event.incident_id) == ("error", incident)
    assert "400" in event.message
    assert sef.outbox()["failed"] == 1


@ONCE
def test_a_channel_in_a_private_network_fails_at_once_and_delays_no_other(
    world: World, receiver: Receiver
) -> None:
    sef = world.sef(
        notification_urls=f"json://169.254.169.254/x-secret {url(receiver)}",
        allowed_private_networks=LOOPBACK,
    )
    world.primary(sef)
    world.signal(sef, TERMINATION)
    sef.deliver_notifications()
    assert kinds(receiver) == ["detection", "switch", "outcome"]
    by_channel = {row.channel: row for row in deliveries(world)}
    assert by_channel["json://169.254.169.254"].status == "failed"
    assert len(world.events("notification_failed")) == 3
    everything = str(world.rows("system_events", None) + deliveries(world))
    assert "SEF_ALLOWED_PRIVATE_NETWORKS" in everything
    assert "x-secret" not in everything


@ONCE
def test_a_plugin_that_raises_delays_no_other_channel(
    world: World, receiver: Receiver, other: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apprise.plugins.custom_json import NotifyJSON

    real = NotifyJSON.send

    def send(self: Any, *arguments: Any, **named: Any) -> Any:
        if self.port == receiver.port:
            raise ZeroDivisionError("a defect of the plugin")
        return real(self, *arguments, **named)

    monkeypatch.setattr(NotifyJSON, "send", send)
    sef = worker(world, receiver, other)
    alert(sef, world, "something")
    sef.deliver_notifications()
    assert kinds(other) == ["alert"]
    error = next(row.error for row in deliveries(world) if row.status == "pending")
    assert error == "ZeroDivisionError: a defect of the plugin"


@ONCE
def test_a_slow_channel_delays_no_other(
    world: World, receiver: Receiver, other: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sef.notifications.deliver.PASS_TIMEOUT", 0.5)
    answer_now = Event()

    def wait(handler: Any) -> None:
        answer_now.wait(LIMIT)
        handler.send_response(200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    receiver.answers = wait
    sef = worker(world, receiver, other)

    def has_got(count: int) -> bool:
        sef.deliver_notifications()
        return len(other.got) == count

    for count, name in enumerate(("first", "second"), start=1):
        alert(sef, world, name)
        until(partial(has_got, count))
    assert len(receiver.got) == 1, "the slow channel gets one message at a time"
    answer_now.set()
    until_all_sent(world, sef)
    assert len(receiver.got) == 2


@ONCE
def test_a_failover_does_not_wait_for_its_messages(world: World) -> None:
    """Sending starts after the signal is answered."""
    sef = world.sef(notification_urls="json://203.0.113.1/x")
    world.primary(sef)
    assert world.signal(sef, TERMINATION)["action"] == "promoted"
    assert deliveries(world) == []
    assert len(world.rows("notifications", None)) == 3


@ONCE
def test_without_channels_no_message_is_kept_for_a_later_channel(
    world: World, receiver: Receiver
) -> None:
    sef = world.sef()
    alert(sef, world, "long_ago")
    assert sef.deliver_notifications() == 0
    assert worker(world, receiver).deliver_notifications() == 0
    assert receiver.got == []


@ONCE
def test_messages_of_a_removed_channel_fail_after_a_day(
    world: World, receiver: Receiver, other: Receiver
) -> None:
    receiver.status = 503
    alert(worker(world, receiver), world, "something")
    worker(world, receiver).deliver_notifications()
    sef = worker(world, other)
    sef.deliver_notifications()
    assert [row.status for row in deliveries(world)] == ["pending"]
    world.clock.advance(2 * 86400)
    sef.deliver_notifications()
    assert [row.status for row in deliveries(world)] == ["failed"]
    events = [e for e in world.rows("system_events", None) if e.event_type == "notification_failed"]
    assert len(events) == 1
    assert sef.outbox()["last_failed"][0]["channel"] == f"json://127.0.0.1:{receiver.port}"


@ONCE
def test_an_alert_outside_an_incident_is_sent_once_an_hour(
    world: World, receiver: Receiver
) -> None:
    sef = worker(world, receiver)
    for _ in range(5):
        alert(sef, world, "launch_limit_reached")
    sef.deliver_notifications()
    assert [body["title"] for _, _, body in receiver.got] == ["[SEF] launch limit reached"]
    world.clock.advance(3600)
    alert(sef, world, "launch_limit_reached")
    sef.deliver_notifications()
    assert len(receiver.got) == 2


@ONCE
def test_a_claim_that_expires_far_in_the_future_does_not_count(
    world: World, receiver: Receiver
) -> None:
    """A worker with a clock that was wrong by years died while it was sending."""
    sef = worker(world, receiver)
    alert(sef, world, "something")
    receiver.status = 503
    sef.deliver_notifications()
    receiver.status = 200
    far = world.clock().replace(year=world.clock().year + 5)
    world.write(update(tables.notification_deliveries).values(claimed_until=far))
    world.clock.advance(1000)
    sef.deliver_notifications()
    assert [row.status for row in deliveries(world)] == ["sent"]


@ONCE
def test_a_drill_sends_its_outcome_if_the_setting_is_info(world: World, receiver: Receiver) -> None:
    sef = worker(world, receiver, notification_min_severity="info")
    world.primary(sef)
    sef.register_agent("a", {"drill_interval": 86400})
    world.clock.advance(86401)
    sef.plan_switchovers()
    world.settle(sef)
    sef.deliver_notifications()
    assert kinds(receiver) == ["outcome"]


@ONCE
def test_the_outcome_waits_for_the_cutover(world: World, receiver: Receiver) -> None:
    sef = worker(world, receiver, spot_pools=",".join(SAME_ZONE))
    primary = world.primary(sef)
    sef.register_agent("a", {"cutover": Belongings(world, primary).targets})
    world.simulation.add_fault("AssociateAddress", error_code="UnauthorizedOperation")
    world.signal(sef, TERMINATION, instance_id=primary)
    for _ in range(5):
        world.settle(sef, 60)
    sef.deliver_notifications()
    assert kinds(receiver) == ["detection", "switch", "cutover"]
    world.simulation.clear_faults()
    for _ in range(5):
        world.settle(sef, 120)
    sef.deliver_notifications()
    assert kinds(receiver) == ["detection", "switch", "cutover", "outcome"]
    assert " completed in " in receiver.got[-1][2]["message"]


@ONCE
def test_messages_beyond_the_rate_of_a_channel_are_sent_as_digests(
    world: World, receiver: Receiver
) -> None:
    sef = worker(world, receiver)
    names = [f"alert_{number:03}" for number in range(150)]
    for name in names:
        alert(sef, world, name)
    assert sef.deliver_notifications() == 150
    titles = [body["title"] for _, _, body in receiver.got]
    assert titles[20:] == [f"[SEF] digest of {count} messages" for count in (50, 50, 30)]
    text = "\n".join(body["message"] for _, _, body in receiver.got)
    told = [name for name in text.split() if name in names]
    assert told == names, "each is told once, in order"
    assert {row.status for row in deliveries(world)} == {"sent"}


@ONCE
def test_no_message_waits_longer_than_a_minute_for_its_digest(
    world: World, receiver: Receiver
) -> None:
    sef = worker(world, receiver)
    for number in range(25):
        alert(sef, world, f"alert_{number}")
    sef.deliver_notifications()
    sent = len(receiver.got)
    for number in range(3):
        alert(sef, world, f"late_{number}")
        sef.deliver_notifications()
    assert len(receiver.got) == sent
    world.clock.advance(35)
    sef.deliver_notifications()
    assert len(receiver.got) == sent + 1
    assert all(f"late_{number} happened" in receiver.got[-1][2]["message"] for number in range(3))
    world.clock.advance(600)
    alert(sef, world, "after_the_storm")
    sef.deliver_notifications()
    assert receiver.got[-1][2]["title"] == "[SEF] after the storm"


@ONCE
def test_the_messages_of_a_digest_that_fails_are_sent_later(
    world: World, receiver: Receiver
) -> None:
    sef = worker(world, receiver)
    for number in range(20):
        alert(sef, world, f"alert_{number}")
    sef.deliver_notifications()
    receiver.status = 500
    for number in range(5):
        alert(sef, world, f"late_{number}")
    sef.deliver_notifications()
    receiver.status = 200
    receiver.got.clear()
    until_all_sent(world, sef)
    text = "\n".join(body["message"] for _, _, body in receiver.got)
    assert [text.count(f"late_{number} happened") for number in range(5)] == [1] * 5
