"""The end of a target's holder, computed from the former primaries and a look at AWS."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sef.failover.cutover.urgency import (
    ANNOUNCED_FOR,
    MISSING_FOR,
    Former,
    NotRunning,
    after_look,
    common_end,
    end_of_holder,
    seen_not_running,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
A, B = Former("i-a", None), Former("i-b", None)
DEAD, NOTICED = Former("i-d", NOW - MINUTE), Former("i-n", NOW + MINUTE)


def looked(former: Former, alive: dict[str, bool], before: dict[str, NotRunning]) -> Former:
    not_running = seen_not_running([former], alive, before, NOW)
    [result] = after_look([former], alive, not_running, NOW)
    return result


@pytest.mark.parametrize(
    ("former", "alive", "before", "ends_at"),
    [
        (A, {"i-a": True}, {}, None),
        (A, {"i-a": False}, {}, NOW),  # ended or stopped
        (A, {}, {}, None),  # that EC2 does not show it is no proof
        (A, {}, {"i-a": NotRunning(NOW - MISSING_FOR + SECOND, False)}, None),
        (A, {}, {"i-a": NotRunning(NOW - MISSING_FOR, False)}, NOW - MISSING_FOR),
        (A, {}, {"i-a": NotRunning(NOW - MINUTE, True)}, NOW - MINUTE),
        (A, {"i-a": True}, {"i-a": NotRunning(NOW - MINUTE, True)}, None),  # started again
        (A, {"i-a": False}, {"i-a": NotRunning(NOW + MINUTE, True)}, NOW),  # clock set back
        (NOTICED, {"i-n": True}, {}, NOW + MINUTE),
        (NOTICED, {"i-n": False}, {}, NOW),
        (Former("i-n", NOW - ANNOUNCED_FOR), {"i-n": True}, {}, None),  # AWS did not take it
        (Former("i-n", NOW - SECOND), {"i-n": True}, {}, NOW - SECOND),
        (DEAD, {}, {}, NOW - MINUTE),
    ],
)
def test_end_of_a_former_primary_after_a_look(
    former: Former,
    alive: dict[str, bool],
    before: dict[str, NotRunning],
    ends_at: datetime | None,
) -> None:
    assert looked(former, alive, before).ends_at == ends_at


@pytest.mark.parametrize(
    ("formers", "expected"),
    [
        ([], (True, None)),
        ([A, B], (True, None)),
        ([NOTICED], (True, NOW + MINUTE)),
        ([DEAD, Former("i-e", NOW - SECOND)], (True, NOW - MINUTE)),
        ([A, DEAD], (False, None)),
        ([NOTICED, DEAD], (False, None)),
    ],
)
def test_holders_are_looked_up_only_if_the_ends_differ(
    formers: list[Former], expected: tuple[bool, datetime | None]
) -> None:
    assert common_end(formers, NOW) == expected


@pytest.mark.parametrize(
    ("holders", "ends_at"),
    [
        (None, None),
        (["i-a"], None),
        (["i-n"], NOW + MINUTE),
        (["i-d"], NOW - MINUTE),
        (["i-d", "i-n"], NOW - MINUTE),
        (["i-d", "i-a"], None),  # a target group that one healthy instance still serves
        ([], NOW - MINUTE),  # AWS took the address from the one that ended
    ],
)
def test_end_of_the_holder(holders: Collection[str] | None, ends_at: datetime | None) -> None:
    held = None if holders is None else frozenset(holders)
    assert end_of_holder(held, [A, DEAD, NOTICED], NOW) == ends_at


def test_target_that_nobody_holds_waits_while_every_former_primary_lives() -> None:
    assert end_of_holder(frozenset(), [A, NOTICED], NOW) is None


@given(st.sets(st.sampled_from(["i-a", "i-d", "i-n"])))
def test_target_with_a_living_holder_is_never_hurried(holders: set[str]) -> None:
    end = end_of_holder(frozenset(holders), [A, DEAD, NOTICED], NOW)
    assert "i-a" not in holders or end is None
