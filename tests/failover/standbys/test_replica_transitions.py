"""A replica's life: every move that there is, and every one that there is not."""

from itertools import product

import pytest

from sef.terms import (
    LIVE,
    TRANSITIONS,
    IllegalTransition,
    Market,
    ReplicaStatus,
    ReplicaType,
    check_transition,
)

LAUNCHING, READY, PROMOTED = ReplicaStatus.LAUNCHING, ReplicaStatus.READY, ReplicaStatus.PROMOTED
RELEASING, TERMINATED, FAILED = (
    ReplicaStatus.RELEASING,
    ReplicaStatus.TERMINATED,
    ReplicaStatus.FAILED,
)

LEGAL = {
    LAUNCHING: {READY, RELEASING, FAILED},
    READY: {PROMOTED, RELEASING, FAILED},
    PROMOTED: {TERMINATED},
    RELEASING: {TERMINATED},
    TERMINATED: set(),
    FAILED: set(),
}
EVERY_PAIR = [
    pytest.param(old, new, id=f"{old}-{new}") for old, new in product(ReplicaStatus, repeat=2)
]


@pytest.mark.parametrize(("old", "new"), EVERY_PAIR)
def test_a_move_is_in_the_table_or_refused(old, new):
    if new in LEGAL[old]:
        cause = check_transition(old, new)
        assert cause == TRANSITIONS[old, new]
        assert cause.strip()
    else:
        with pytest.raises(IllegalTransition, match=f"a {old} replica cannot become {new}"):
            check_transition(old, new)


def test_the_table_has_no_other_moves():
    assert set(TRANSITIONS) == {(old, new) for old, ends in LEGAL.items() for new in ends}


def test_nothing_becomes_what_it_is():
    assert not any((status, status) in TRANSITIONS for status in ReplicaStatus)


def test_terminated_and_failed_have_no_way_out():
    ends = set(ReplicaStatus) - {old for old, _ in TRANSITIONS}
    assert ends == {TERMINATED, FAILED}


def reachable(start):
    found, new = set(), {start}
    while new:
        found |= new
        new = {after for before, after in TRANSITIONS if before in found} - found
    return found


def test_every_state_is_reached_from_launching():
    assert reachable(LAUNCHING) == set(ReplicaStatus)


@pytest.mark.parametrize("status", ReplicaStatus)
def test_every_state_can_end(status):
    assert reachable(status) & {TERMINATED, FAILED}


def test_what_left_the_live_states_does_not_come_back():
    assert set(LIVE) == {LAUNCHING, READY}
    for status in set(ReplicaStatus) - LIVE:
        assert not reachable(status) & LIVE


def test_only_a_ready_replica_is_promoted():
    assert [old for old, new in TRANSITIONS if new is PROMOTED] == [READY]


def test_the_words_that_other_peoples_sql_relies_on():
    assert {str(kind) for kind in ReplicaType} == {
        "manual",
        "automatic-rebalance",
        "automatic-termination",
    }
    assert {str(status) for status in ReplicaStatus} == {
        "launching",
        "ready",
        "promoted",
        "releasing",
        "terminated",
        "failed",
    }
    assert {str(market) for market in Market} == {"spot", "on-demand"}
