"""The summary of an incident in one sentence, and the order of its timeline entries."""

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sef.failover.incidents.summary import (
    EntryKind,
    IncidentSummary,
    TimelineEntry,
    in_order,
    summary,
)
from sef.terms import Goal, IncidentKind, IncidentStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def facts(**changes: Any) -> IncidentSummary:
    replaced: dict[str, Any] = {
        "kind": IncidentKind.INTERRUPTION,
        "status": IncidentStatus.DONE,
        "goal": Goal.SWITCH,
        "reason": "because",
        "obstacle": None,
        "old": "i-old",
        "new": "i-new",
        "new_pool": "m5.large.us-east-1b",
        "failover_ms": 812,
        "seconds_left": 118.25,
    }
    return IncidentSummary(**replaced | changes)


SUMMARIES = [
    pytest.param(
        {},
        "i-new in m5.large.us-east-1b replaced i-old in 0.812 s, 118.2 s before the deadline",
        id="replaced-in-time",
    ),
    pytest.param(
        {"seconds_left": -3.5, "failover_ms": 123_500},
        "i-new in m5.large.us-east-1b replaced i-old in 123.500 s, 3.5 s after the deadline",
        id="replaced-too-late",
    ),
    pytest.param(
        {"new_pool": None, "seconds_left": None, "goal": Goal.STANDBY},
        "i-new replaced i-old in 0.812 s",
        id="replaced-for-a-recommendation",
    ),
    pytest.param(
        {"kind": IncidentKind.DRILL, "new_pool": None, "seconds_left": None},
        "a drill: i-new replaced i-old in 0.812 s",
        id="drill",
    ),
    pytest.param(
        {"kind": IncidentKind.RETURN, "new_pool": None, "seconds_left": None},
        "return to spot: i-new replaced i-old in 0.812 s",
        id="return",
    ),
    pytest.param(
        {"kind": IncidentKind.LOSS, "new_pool": None, "seconds_left": None},
        "an instance was lost without a notice: i-new replaced i-old in 0.812 s",
        id="loss",
    ),
    pytest.param(
        {"status": IncidentStatus.OPEN, "new": None},
        "i-old is being replaced: because, 118.2 s before the deadline",
        id="open",
    ),
    pytest.param(
        {"status": IncidentStatus.OPEN, "new": None, "goal": Goal.MONITOR, "seconds_left": None},
        "i-old is monitored: because",
        id="monitored",
    ),
    pytest.param(
        {"status": IncidentStatus.NEEDS_OPERATOR, "new": None, "seconds_left": -60.0},
        "cannot replace i-old; operator action needed: because, 60.0 s after the deadline",
        id="needs-operator",
    ),
    pytest.param(
        {"status": IncidentStatus.NEEDS_OPERATOR, "new": None, "obstacle": "a limit"},
        "cannot replace i-old; operator action needed: a limit, 118.2 s before the deadline",
        id="needs-operator-with-an-obstacle",
    ),
    pytest.param(
        {"status": IncidentStatus.RELEASED, "new": None, "seconds_left": None},
        "nothing was done about i-old: because",
        id="released",
    ),
    pytest.param(
        {"new": None, "reason": "a standby was taken, and replaced"},
        "i-old needed no failover: a standby was taken, and replaced",
        id="a-standby-was-replaced",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), SUMMARIES)
def test_summary_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    assert summary(facts(**changes)) == sentence


@given(
    st.builds(
        facts,
        kind=st.sampled_from(IncidentKind),
        status=st.sampled_from(IncidentStatus),
        goal=st.sampled_from(Goal),
        new=st.none() | st.just("i-new"),
        seconds_left=st.none() | st.floats(-1e6, 1e6),
        failover_ms=st.none() | st.integers(0, 10**9),
    )
)
def test_every_summary_names_the_instances(incident: IncidentSummary) -> None:
    sentence = summary(incident)
    assert incident.old in sentence
    assert (incident.new or "i-old") in sentence


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))), st.randoms())
def test_entries_are_sorted_by_time_and_order(
    keys: list[tuple[int, int, int]], random: Random
) -> None:
    entries = [
        TimelineEntry(NOW + timedelta(seconds=at), EntryKind.STEP, "", "", order=(first, second))
        for at, first, second in keys
    ]
    shuffled = random.sample(entries, len(entries))
    ordered = [(entry.at, entry.order) for entry in in_order(shuffled)]
    assert ordered == sorted((entry.at, entry.order) for entry in entries)
