"""Severity, title and text of messages, and the delays of retries."""

from datetime import UTC, datetime, timedelta

import pytest

from sef.notifications.messages import (
    MAX_DELAY,
    TRIES,
    body,
    retry_delay,
    severity_of,
    should_send,
    title,
)
from sef.terms import NotificationKind, NotificationSeverity

INFO, WARNING, ERROR = NotificationSeverity


@pytest.mark.parametrize(
    ("kind", "severity", "expected"),
    [
        (NotificationKind.RECOMMENDATION, "info", INFO),
        (NotificationKind.DETECTION, "info", WARNING),
        (NotificationKind.DETECTION, "error", ERROR),
        (NotificationKind.SWITCH, "info", INFO),
        (NotificationKind.OPERATOR, "warning", ERROR),
        (NotificationKind.OUTCOME, "info", INFO),
        (NotificationKind.OUTCOME, "error", ERROR),
        (NotificationKind.ALERT, "info", WARNING),
    ],
)
def test_the_severity_is_that_of_the_event_but_at_least_the_minimum_of_the_kind(
    kind: NotificationKind, severity: str, expected: NotificationSeverity
) -> None:
    assert severity_of(kind, severity) is expected


@pytest.mark.parametrize(
    ("severity", "minimum", "thread_begun", "is_sent"),
    [
        (INFO, INFO, False, True),
        (INFO, WARNING, False, False),
        (WARNING, WARNING, False, True),
        (WARNING, ERROR, False, False),
        (ERROR, INFO, False, True),
        (INFO, ERROR, True, True),
    ],
)
def test_a_message_is_sent_if_it_is_severe_enough_or_its_thread_has_started(
    severity: NotificationSeverity,
    minimum: NotificationSeverity,
    thread_begun: bool,
    is_sent: bool,
) -> None:
    assert should_send(severity, minimum, thread_begun=thread_begun) is is_sent


def test_the_title_is_the_same_for_all_messages_of_an_incident() -> None:
    assert title("web-1", "incident-1", "termination_notice") == "[SEF] web-1: incident-1"
    assert title("web-1", "incident-1", "failover_completed") == "[SEF] web-1: incident-1"
    assert title("web-1", None, "launch_limit") == "[SEF] web-1: launch limit"
    assert title(None, None, "launch_limit") == "[SEF] launch limit"


def test_the_body_has_the_message_and_its_agent_incident_moment_and_time() -> None:
    at = datetime(2024, 3, 1, 12, 0, 0, 5, tzinfo=UTC)
    assert body(
        NotificationKind.SWITCH, "i-2 replaces i-1", at, "web-1", "incident-1"
    ).splitlines() == [
        "i-2 replaces i-1",
        "",
        "agent: web-1",
        "incident: incident-1",
        "moment: switch",
        "at: 2024-03-01T12:00:00Z",
    ]


def test_the_delays_grow_to_their_maximum() -> None:
    delays = [retry_delay(tries, 0.5) for tries in range(1, TRIES)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (timedelta(seconds=5), MAX_DELAY)
    assert timedelta(hours=1.5) < sum(delays, timedelta()) < timedelta(hours=2.5)


def test_the_delays_are_spread() -> None:
    assert retry_delay(3, 0) == timedelta(seconds=10)
    assert retry_delay(3, 1) == timedelta(seconds=30)
