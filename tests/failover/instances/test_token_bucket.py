"""Token buckets: never more calls than EC2 takes, and none held back that it would take."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sef.failover.instances.rate_limit import Rate, TokenBucket

RUN = Rate(5, 2)
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("tokens", "seconds", "expected"),
    [
        (5, 0, 5),
        (5, 100, 5),  # never more than it holds
        (0, 0, 0),
        (0, 0.25, 0.5),
        (0, 1, 2),
        (0, 2.5, 5),
        (1.5, 1, 3.5),
        (3, -10, 3),  # a clock that is behind gives nothing, and takes nothing
    ],
)
def test_what_comes_back_to_a_bucket(tokens: float, seconds: float, expected: float) -> None:
    refilled = TokenBucket(tokens, NOON).refilled(RUN, after(seconds))
    assert refilled == TokenBucket(expected, after(seconds))


@pytest.mark.parametrize(
    ("tokens", "left", "remaining"),
    [
        (5, 0, 4),
        (1, 0, 0),
        (0.99, 0, None),
        (0, 0, None),
        (3, 2, 2),
        (2.99, 2, None),
        # However many are more urgent, a full bucket serves whoever comes.
        (5, 4, 4),
        (5, 400, 4),
        (4.99, 400, None),
    ],
)
def test_a_call_takes_a_token_and_leaves_some(
    tokens: float, left: int, remaining: float | None
) -> None:
    taken = TokenBucket(tokens, NOON).take(RUN, NOON, left=left)
    assert (taken and taken.tokens) == remaining


rates = st.builds(Rate, st.integers(1, 100), st.sampled_from([0.5, 1.0, 2.0, 5.0, 20.0]))
steps = st.lists(st.tuples(st.floats(0, 10), st.integers(0, 6)), max_size=60)


def taken_at(rate: Rate, moments: list[tuple[float, int]]) -> list[float]:
    """Somebody tries after each step; when the calls were made."""
    bucket, now, made = TokenBucket(rate.burst, NOON), 0.0, []
    for step, left in moments:
        now += step
        one_less = bucket.take(rate, after(now), left=left)
        if one_less is not None:
            bucket = one_less
            made.append(now)
    return made


@given(rates, steps)
def test_in_no_window_are_there_more_calls_than_burst_and_refill(
    rate: Rate, moments: list[tuple[float, int]]
) -> None:
    made = taken_at(rate, moments)
    for first in range(len(made)):
        for last in range(first, len(made)):
            window = made[last] - made[first]
            # Times have microseconds.
            most = rate.burst + rate.per_second * (window + 1e-5 * len(made))
            assert last - first + 1 <= most


@given(rates, st.lists(st.floats(0, 10), max_size=40))
def test_whoever_comes_at_the_rate_is_never_held_back(rate: Rate, waits: list[float]) -> None:
    moments = [(1.001 / rate.per_second + wait, 0) for wait in waits]
    assert len(taken_at(rate, moments)) == len(waits)


@given(rates, st.integers(1, 1000), st.lists(st.floats(-1000, 1000), max_size=30))
def test_clocks_that_differ_hold_nobody_up_for_longer_than_a_refill(
    rate: Rate, left: int, moments: list[float]
) -> None:
    bucket = TokenBucket(rate.burst, NOON)
    for moment in moments:
        bucket = bucket.refilled(rate, after(moment))
        bucket = bucket.take(rate, after(moment)) or bucket
    full_again = bucket.at + timedelta(seconds=rate.burst / rate.per_second + 0.001)
    assert bucket.take(rate, full_again, left=left) is not None
