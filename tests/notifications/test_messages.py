"""What is told, how urgently, in which words, and when it is tried again."""

from datetime import UTC, datetime, timedelta

import pytest

from sef.notifications.messages import (
    LONGEST_WAIT,
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
    ("moment", "severity", "expected"),
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
def test_how_urgent_a_message_is(
    moment: NotificationKind, severity: str, expected: NotificationSeverity
) -> None:
    assert severity_of(moment, severity) is expected


@pytest.mark.parametrize(
    ("of_message", "least", "thread_begun", "told"),
    [
        (INFO, INFO, False, True),
        (INFO, WARNING, False, False),
        (WARNING, WARNING, False, True),
        (WARNING, ERROR, False, False),
        (ERROR, INFO, False, True),
        (INFO, ERROR, True, True),
    ],
)
def test_who_has_heard_of_an_incident_hears_how_it_ends(
    of_message: NotificationSeverity, least: NotificationSeverity, thread_begun: bool, told: bool
) -> None:
    assert should_send(of_message, least, thread_begun=thread_begun) is told


def test_the_title_is_the_same_for_all_messages_of_an_incident() -> None:
    assert title("web-1", "incident-1", "termination_notice") == "[SEF] web-1: incident-1"
    assert title("web-1", "incident-1", "failover_completed") == "[SEF] web-1: incident-1"
    assert title("web-1", None, "launch_limit") == "[SEF] web-1: launch limit"
    assert title(None, None, "launch_limit") == "[SEF] launch limit"


def test_the_body_says_what_happened_and_what_it_is_about() -> None:
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


def test_the_waits_grow_to_their_limit() -> None:
    waits = [retry_delay(tries, 0.5) for tries in range(1, TRIES)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (timedelta(seconds=5), LONGEST_WAIT)
    assert timedelta(hours=1.5) < sum(waits, timedelta()) < timedelta(hours=2.5)


def test_the_waits_are_spread() -> None:
    assert retry_delay(3, 0) == timedelta(seconds=10)
    assert retry_delay(3, 1) == timedelta(seconds=30)
