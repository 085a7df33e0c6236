"""The reasons to keep an instance that no longer serves its agent."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sef.failover.retention import (
    Belonging,
    CloudFacts,
    Interrupted,
    RowFacts,
    kept_by_belongings,
    kept_by_cloud,
    kept_by_rows,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
UNNEEDED = RowFacts(
    terminate_after=NOW,
    primary_of=None,
    standby_of=None,
    primary="i-2",
    has_emergency=False,
    is_cutover_open=False,
)
UNUSED = CloudFacts("i-2", is_primary_running=True, held=(), unseen=())


def test_an_instance_that_nothing_needs_is_not_kept() -> None:
    assert kept_by_rows(UNNEEDED, NOW) is None
    assert kept_by_cloud(UNUSED) is None


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"primary_of": "b"}, "it is the primary of b"),
        ({"standby_of": "b"}, "it is the standby of b"),
        ({"terminate_after": None}, "it is left to AWS or its operator"),
        ({"terminate_after": NOW + SECOND}, "its connections drain"),
        (
            {"has_emergency": True},
            "the primary is being lost, and this instance may be needed",
        ),
        ({"is_cutover_open": True}, "the cutover from it is not finished"),
        ({"primary": None}, "the agent has no known primary"),
    ],
)
def test_the_rows_have_a_reason_to_keep_it(facts: dict[str, Any], reason: str) -> None:
    assert kept_by_rows(replace(UNNEEDED, **facts), NOW) == reason


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"is_primary_running": False}, "EC2 does not show the primary i-2 running"),
        ({"held": ["dns a.example"]}, "it still has 1 target: dns a.example"),
        ({"held": ["x", "y"]}, "it still has 2 targets: x, y"),
        ({"unseen": ["x"]}, "SEF cannot see if it still has x"),
    ],
)
def test_aws_has_a_reason_to_keep_it(facts: dict[str, Any], reason: str) -> None:
    assert kept_by_cloud(replace(UNUSED, **facts)) == reason


@given(
    st.builds(
        RowFacts,
        terminate_after=st.sampled_from([None, NOW - SECOND, NOW, NOW + SECOND]),
        primary_of=st.sampled_from([None, "a", "b"]),
        standby_of=st.sampled_from([None, "a"]),
        primary=st.sampled_from([None, "i-2"]),
        has_emergency=st.booleans(),
        is_cutover_open=st.booleans(),
    )
)
def test_an_instance_ends_only_without_any_reason_to_keep_it(facts: RowFacts) -> None:
    is_unneeded = replace(facts, terminate_after=NOW) == UNNEEDED
    is_drained = facts.terminate_after is not None and facts.terminate_after <= NOW
    assert (kept_by_rows(facts, NOW) is None) == (is_unneeded and is_drained)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"terminate_after": NOW + SECOND}, None),
        ({"is_cutover_open": True}, None),
        ({"primary_of": "b"}, "it is the primary of b"),
        ({"standby_of": "b"}, "it is the standby of b"),
        (
            {"has_emergency": True},
            "the primary is being lost, and this instance may be needed",
        ),
    ],
)
def test_an_order_does_not_end_what_serves(facts: dict[str, Any], reason: str | None) -> None:
    assert kept_by_rows(replace(UNNEEDED, is_end_ordered=True, **facts), NOW) == reason


def test_an_order_ends_a_holder_only_beside_a_running_primary() -> None:
    holder = replace(UNUSED, held=["x"], unseen=["y"], is_end_ordered=True)
    assert kept_by_cloud(holder) is None
    alone = replace(holder, is_primary_running=False)
    assert kept_by_cloud(alone) == "EC2 does not show the primary i-2 running"


@pytest.mark.parametrize(
    ("is_target", "is_deleted", "is_kept"),
    [(True, False, True), (True, True, True), (False, True, True), (False, False, False)],
)
def test_what_was_named_does_not_die(is_target: bool, is_deleted: bool, is_kept: bool) -> None:
    kept = kept_by_belongings([Belonging("vol-1", "a", is_target, is_deleted)])
    assert (kept is not None) == is_kept


LEFT = Interrupted(
    state="running",
    has_ended=False,
    is_announced=True,
    was_stopped=False,
    started_again=False,
    behavior="stop",
    brings_back=True,
    may_end=True,
)


@pytest.mark.parametrize(
    ("facts", "cancels", "ends"),
    [
        ({}, False, False),
        ({"behavior": "terminate"}, True, False),
        ({"behavior": "terminate", "is_announced": False}, False, False),
        ({"state": "terminated", "has_ended": True}, True, False),
        ({"state": "terminated", "has_ended": True, "brings_back": False}, False, False),
        ({"state": "stopped", "was_stopped": True}, False, True),
        ({"state": "stopped", "was_stopped": True, "may_end": False}, False, False),
        ({"state": "stopped", "was_stopped": False}, False, False),
        ({"state": "stopped", "was_stopped": True, "brings_back": False}, False, False),
        ({"was_stopped": True}, True, True),
        ({"was_stopped": True, "may_end": False}, True, False),
        ({"started_again": True}, True, True),
        ({"started_again": True, "is_announced": False}, False, False),
        ({"state": None, "has_ended": True}, True, False),
    ],
)
def test_an_interrupted_primary_does_not_come_back(
    facts: dict[str, Any], cancels: bool, ends: bool
) -> None:
    interrupted = replace(LEFT, **facts)
    assert (interrupted.cancels_request, interrupted.is_to_end) == (cancels, ends)
