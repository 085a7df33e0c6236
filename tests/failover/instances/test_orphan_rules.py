"""The rules that decide which listed instances a sweep may terminate."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sef.failover.instances.orphan_rules import Known, Listed, Verdict, judge

NOW = datetime(2026, 11, 23, 21, tzinfo=UTC)
HEARD_WITHIN = timedelta(minutes=10)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
TOKEN = "replica-0123456789abcdef-1"
OTHER_TOKEN = "replica-fedcba9876543210-1"
CALL_TOKEN = "call-" + "0" * 32

ORPHAN: dict[str, Any] = {"agent_id": "a", "token": TOKEN, "launched_at": NOW - HOUR}
KNOWN = Known(
    tokens={TOKEN}, named={"i-p"}, claimed={"i-p"}, primaries={"a": "i-p"}, running={"i-p"}
)


def verdict(known: Known, **fields: Any) -> Verdict:
    instance = Listed("i-1", **(ORPHAN | fields))
    return judge([instance], known, NOW, heard_within=HEARD_WITHIN, maximum=20)["i-1"]


def knowing(**changes: Any) -> Known:
    fields = {name: getattr(KNOWN, name) for name in KNOWN.__dataclass_fields__}
    return Known(**(fields | changes))


@pytest.mark.parametrize(
    ("fields", "changes", "expected"),
    [
        ({}, {}, Verdict.ORPHAN),
        ({"launched_at": NOW - 5 * MINUTE}, {}, Verdict.NOT_AN_ORPHAN),
        ({"launched_at": None}, {}, Verdict.NOT_AN_ORPHAN),
        ({"has_state": False}, {}, Verdict.NOT_AN_ORPHAN),
        ({"has_ended": True}, {}, Verdict.NOT_AN_ORPHAN),
        ({}, {"claimed": {"i-1"}, "named": {"i-1"}}, Verdict.NOT_AN_ORPHAN),
        ({}, {"open_tokens": {TOKEN}}, Verdict.NOT_AN_ORPHAN),
        ({"agent_id": None}, {}, Verdict.NOT_AN_ORPHAN),
        (
            {"agent_id": None, "token": CALL_TOKEN},
            {"tokens": {CALL_TOKEN}, "batched": {CALL_TOKEN}},
            Verdict.ORPHAN,
        ),
        ({}, {"heard": {"i-1": NOW - HEARD_WITHIN}}, Verdict.HEARD),
        ({}, {"heard": {"i-1": NOW - HEARD_WITHIN - MINUTE}}, Verdict.ORPHAN),
        ({}, {"running": set()}, Verdict.PRIMARY_DOWN),
        ({}, {"primaries": {}}, Verdict.ORPHAN),
        # No row knows the token.
        ({}, {"tokens": set()}, Verdict.UNKNOWN_LAUNCH),
        ({"token": CALL_TOKEN, "agent_id": None}, {}, Verdict.UNKNOWN_LAUNCH),
        ({"launched_at": NOW - MINUTE}, {"tokens": set()}, Verdict.UNKNOWN_LAUNCH),
        ({"launched_at": None}, {"tokens": set()}, Verdict.UNKNOWN_LAUNCH),
        ({"has_ended": True}, {"tokens": set()}, Verdict.NOT_AN_ORPHAN),
        ({}, {"tokens": set(), "named": {"i-1"}}, Verdict.ORPHAN),
        ({"token": "copied-by-hand"}, {}, Verdict.ORPHAN),
        # The first launch that the rows know is later: its row may have been deleted.
        ({}, {"tokens": set(), "first_launch_at": NOW - 50 * MINUTE}, Verdict.ORPHAN),
        # The clocks of SEF and EC2 may differ by minutes.
        ({}, {"tokens": set(), "first_launch_at": NOW - 56 * MINUTE}, Verdict.UNKNOWN_LAUNCH),
        # A launch after the restore does not make the lost one known.
        ({}, {"tokens": {OTHER_TOKEN}, "first_launch_at": NOW - 9 * HOUR}, Verdict.UNKNOWN_LAUNCH),
    ],
)
def test_verdicts(fields: dict[str, Any], changes: dict[str, Any], expected: Verdict) -> None:
    assert verdict(knowing(**changes), **fields) is expected


def test_ec2s_own_times_count_where_the_clock_of_sef_is_fast() -> None:
    """The row of the first launch says an hour later than EC2 does."""
    first = Listed("i-2", OTHER_TOKEN, "a", NOW - 2 * HOUR)
    lost = Listed("i-1", TOKEN, "a", NOW - 2 * HOUR + MINUTE)
    known = knowing(tokens={OTHER_TOKEN}, first_launch_at=NOW - HOUR, claimed={"i-2"})
    verdicts = judge([first, lost], known, NOW, heard_within=HEARD_WITHIN, maximum=20)
    assert verdicts["i-1"] is Verdict.UNKNOWN_LAUNCH


IDS = [f"i-{number}" for number in range(4)]
TOKENS = [TOKEN, OTHER_TOKEN, CALL_TOKEN, "copied-by-hand"]
subsets_of_ids = st.sets(st.sampled_from(IDS))
times = st.integers(0, 600).map(lambda minutes: NOW - minutes * MINUTE)


@st.composite
def worlds(draw: Any) -> tuple[list[Listed], Known]:
    instances = [
        Listed(
            instance_id,
            draw(st.sampled_from(TOKENS)),
            draw(st.sampled_from(["a", "b", None])),
            draw(st.none() | times),
            has_state=draw(st.booleans()),
            has_ended=draw(st.booleans()),
        )
        for instance_id in IDS
    ]
    claimed = draw(subsets_of_ids)
    tokens = draw(st.sets(st.sampled_from(TOKENS)))
    known = Known(
        claimed=claimed,
        named=claimed | draw(subsets_of_ids),
        tokens=tokens,
        open_tokens=tokens & draw(st.sets(st.sampled_from(TOKENS))),
        batched=tokens & {CALL_TOKEN},
        first_launch_at=draw(st.none() | times),
        primaries=draw(st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(IDS))),
        running=draw(subsets_of_ids),
        heard=draw(st.dictionaries(st.sampled_from(IDS), times)),
    )
    return instances, known


@given(worlds(), st.integers(0, 3))
def test_only_what_no_one_needs_is_terminated(
    world: tuple[list[Listed], Known], maximum: int
) -> None:
    instances, known = world
    verdicts = judge(instances, known, NOW, heard_within=HEARD_WITHIN, maximum=maximum)
    ended = [i for i in instances if verdicts[i.id] is Verdict.ORPHAN]
    assert not maximum or len(ended) <= maximum
    assert not ended or Verdict.UNKNOWN_LAUNCH not in verdicts.values()
    for instance in ended:
        assert instance.id not in known.claimed
        assert instance.token not in known.open_tokens
        assert instance.launched_at is not None
        assert NOW - instance.launched_at > 5 * MINUTE
        heard = known.heard.get(instance.id)
        assert heard is None or NOW - heard > HEARD_WITHIN
        primary = known.primaries.get(instance.agent_id or "")
        assert primary is None or primary in known.running


@given(worlds(), st.sampled_from(IDS))
def test_another_claim_or_report_terminates_nothing_more(
    world: tuple[list[Listed], Known], instance_id: str
) -> None:
    """No instance is terminated because a row or a report speaks for it."""
    instances, known = world
    fields = {name: getattr(known, name) for name in known.__dataclass_fields__}
    for changes in (
        {"claimed": {*known.claimed, instance_id}, "named": {*known.named, instance_id}},
        {"heard": {**known.heard, instance_id: NOW}},
    ):
        after = judge(
            instances, Known(**(fields | changes)), NOW, heard_within=HEARD_WITHIN, maximum=0
        )
        assert after[instance_id] is not Verdict.ORPHAN
