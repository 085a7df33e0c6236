"""The transition table of replicas allows the documented moves and no others."""

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
    RELEASING: {PROMOTED, TERMINATED},
    TERMINATED: set(),
    FAILED: set(),
}
EVERY_PAIR = [
    pytest.param(old, new, id=f"{old}-{new}") for old, new in product(ReplicaStatus, repeat=2)
]


@pytest.mark.parametrize(("old", "new"), EVERY_PAIR)
def test_a_move_outside_of_the_table_is_illegal(old, new):
    if new in LEGAL[old]:
        cause = check_transition(old, new)
        assert cause == TRANSITIONS[old, new]
        assert cause.strip()
    else:
        with pytest.raises(IllegalTransition, match=f"a {old} replica cannot become {new}"):
            check_transition(old, new)


def test_the_table_has_no_other_moves():
    assert set(TRANSITIONS) == {(old, new) for old, ends in LEGAL.items() for new in ends}


def test_no_state_moves_to_itself():
    assert not any((status, status) in TRANSITIONS for status in ReplicaStatus)


def test_terminated_and_failed_are_final():
    ends = set(ReplicaStatus) - {old for old, _ in TRANSITIONS}
    assert ends == {TERMINATED, FAILED}


def reachable(start):
    reached, new = set(), {start}
    while new:
        reached |= new
        new = {after for before, after in TRANSITIONS if before in reached} - reached
    return reached


def test_launching_leads_to_every_state():
    assert reachable(LAUNCHING) == set(ReplicaStatus)


@pytest.mark.parametrize("status", ReplicaStatus)
def test_every_state_can_end(status):
    assert reachable(status) & {TERMINATED, FAILED}


def test_a_replica_never_returns_to_a_live_state():
    assert set(LIVE) == {LAUNCHING, READY}
    for status in set(ReplicaStatus) - LIVE:
        assert not reachable(status) & LIVE


def test_a_standby_is_promoted_when_ready_or_when_an_operator_names_it():
    assert {old for old, new in TRANSITIONS if new is PROMOTED} == {READY, RELEASING}


def test_stored_values_match_the_documented_schema():
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
