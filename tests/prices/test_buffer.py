"""An observation waits for the other half of its pair while a replica is expected."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sef.prices.ingest import EXPECTED_FOR, BufferedObservation, replica_is_expected, split_due
from tests.prices import observations as some
from tests.prices import oracle
from tests.prices.observations import RULES, T, at, primary, replica

WINDOW = timedelta(seconds=300)
NOW = at(10_000)
MICRO = 0.000001


# A replica that is expected to report


def test_a_standby_is_expected_to_report_for_ten_minutes():
    assert timedelta(minutes=10) == EXPECTED_FOR


@pytest.mark.parametrize(
    ("ready_ago", "heard_ago", "expected"),
    [
        pytest.param(None, None, False, id="no-standby"),
        pytest.param(None, 1, False, id="no-standby-though-one-was-heard"),
        pytest.param(0, None, True, id="ready-just-now"),
        pytest.param(600 - MICRO, None, True, id="ready-for-less-than-ten-minutes"),
        pytest.param(600, None, False, id="ready-for-ten-minutes-and-silent"),
        pytest.param(86400, 600 - MICRO, True, id="heard-within-ten-minutes"),
        pytest.param(86400, 600, False, id="silent-for-ten-minutes"),
        pytest.param(86400, None, False, id="ready-for-long-and-never-heard"),
        pytest.param(5, 86400, True, id="a-new-standby-after-one-that-fell-silent"),
    ],
)
def test_a_replica_is_expected_while_it_is_new_or_reports(ready_ago, heard_ago, expected):
    ready_at = None if ready_ago is None else NOW - timedelta(seconds=ready_ago)
    heard_at = None if heard_ago is None else NOW - timedelta(seconds=heard_ago)
    assert replica_is_expected(ready_at, heard_at, NOW) is expected


# Waiting observations


def split(stored=(), waiting=(), arrivals=(), *, expected=True):
    """Split observations; `waiting` has pairs of an observation and its waiting time in seconds."""
    buffered = [BufferedObservation(seen, NOW - timedelta(seconds=age)) for seen, age in waiting]
    return split_due(
        stored, buffered, arrivals, expected=expected, now=NOW, window=WINDOW, rules=RULES
    )


CASES = {
    "the first of a pair waits": ([], [], [primary(0)], [], [primary(0)]),
    "the replica may be the first": ([], [], [replica(0)], [], [replica(0)]),
    "the other half releases it": (
        [],
        [(primary(0), 10)],
        [replica(30)],
        [primary(0), replica(30)],
        [],
    ),
    "both halves at once": ([], [], [primary(0), replica(3)], [primary(0), replica(3)], []),
    "beyond the tolerance both wait": (
        [],
        [(primary(0), 10)],
        [replica(31)],
        [],
        [primary(0), replica(31)],
    ),
    "the half that is already stored": ([primary(0)], [], [replica(9)], [replica(9)], []),
    "the half that is stored in a pair": (
        [primary(0), replica(20)],
        [],
        [replica(9)],
        [replica(9)],
        [],
    ),
    "a nearer stored pair leaves it waiting": (
        [primary(0), replica(5)],
        [],
        [replica(9)],
        [],
        [replica(9)],
    ),
    "a correction of what is stored": (
        [primary(0)],
        [],
        [primary(0, "0.06")],
        [primary(0, "0.06")],
        [],
    ),
    "a correction of what waits": (
        [],
        [(primary(0), 10)],
        [primary(0, "0.06")],
        [],
        [primary(0, "0.06")],
    ),
    "the window is not over": ([], [(primary(0), 300 - MICRO)], [], [], [primary(0)]),
    "the window is over": ([], [(primary(0), 300)], [], [primary(0)], []),
    "a correction of what has waited enough": (
        [],
        [(primary(0), 300)],
        [primary(0, "0.06")],
        [primary(0, "0.06")],
        [],
    ),
    "only the overdue one goes": (
        [],
        [(primary(0), 400), (primary(300), 100)],
        [],
        [primary(0)],
        [primary(300)],
    ),
    "nothing": ([], [], [], [], []),
}


@pytest.mark.parametrize(
    ("stored", "waiting", "arrivals", "merged", "kept"),
    CASES.values(),
    ids=[name.replace(" ", "-") for name in CASES],
)
def test_an_observation_waits_for_the_other_half_while_a_replica_is_expected(
    stored, waiting, arrivals, merged, kept
):
    assert split(stored, waiting, arrivals) == (merged, kept)


@pytest.mark.parametrize(
    ("stored", "waiting", "arrivals"),
    [case[:3] for case in CASES.values()],
    ids=[name.replace(" ", "-") for name in CASES],
)
def test_no_observation_waits_without_an_expected_replica(stored, waiting, arrivals):
    merged, kept = split(stored, waiting, arrivals, expected=False)
    everything = oracle.last_received([*(seen for seen, _ in waiting), *arrivals])
    assert (merged, kept) == (everything, [])


def test_the_last_of_two_prices_for_one_time_waits():
    _, kept = split(arrivals=[primary(0, "0.05"), primary(0, "0.06")])
    assert kept == [primary(0, "0.06")]


@settings(max_examples=150)
@given(
    some.observation_sets(),
    st.lists(
        st.tuples(st.sampled_from(["stored", "waiting", "arrived"]), st.integers(299, 301)),
        min_size=12,
        max_size=12,
    ),
    some.rules,
)
def test_an_observation_waits_exactly_until_its_pair_or_the_end_of_the_window(
    observations, places, rules
):
    """No observation is lost. Merged observations are in a pair or have waited for the window."""
    by_place = {"stored": [], "waiting": [], "arrived": []}
    for seen, (place, age) in zip(observations, places, strict=False):
        by_place[place].append((seen, age))
    stored = [seen for seen, _ in by_place["stored"]]
    waiting = [
        BufferedObservation(seen, T - timedelta(seconds=age)) for seen, age in by_place["waiting"]
    ]
    arrivals = [seen for seen, _ in by_place["arrived"]]
    merged, kept = split_due(
        stored, waiting, arrivals, expected=True, now=T, window=WINDOW, rules=rules
    )
    pending = [*(buffered.observation for buffered in waiting), *arrivals]
    in_pairs = {
        half
        for pair in oracle.paired(observations, rules.pairing_tolerance)
        if None not in pair
        for half in pair
    }
    overdue = {seen for seen, age in by_place["waiting"] if age >= 300}
    assert kept == [seen for seen in pending if seen not in in_pairs | overdue]
    assert merged == [seen for seen in pending if seen in in_pairs | overdue]
