"""A token bucket allows exactly the calls that EC2 allows."""

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
        (5, 100, 5),  # a bucket does not exceed its capacity
        (0, 0, 0),
        (0, 0.25, 0.5),
        (0, 1, 2),
        (0, 2.5, 5),
        (1.5, 1, 3.5),
        (3, -10, 3),  # a clock that is behind adds and removes nothing
    ],
)
def test_a_bucket_refills_up_to_its_capacity(
    tokens: float, seconds: float, expected: float
) -> None:
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
        # A full bucket serves every call, also with a larger reserve.
        (5, 4, 4),
        (5, 400, 4),
        (4.99, 400, None),
    ],
)
def test_a_call_takes_a_token_and_leaves_the_reserve(
    tokens: float, left: int, remaining: float | None
) -> None:
    after_call = TokenBucket(tokens, NOON).take(RUN, NOON, left=left)
    assert (after_call and after_call.tokens) == remaining


rates = st.builds(Rate, st.integers(1, 100), st.sampled_from([0.5, 1.0, 2.0, 5.0, 20.0]))
steps = st.lists(st.tuples(st.floats(0, 10), st.integers(0, 6)), max_size=60)


def call_times(rate: Rate, attempts: list[tuple[float, int]]) -> list[float]:
    """Try a call after each step, and return the times of the calls that had a token."""
    bucket, now, called = TokenBucket(rate.burst, NOON), 0.0, []
    for step, left in attempts:
        now += step
        one_less = bucket.take(rate, after(now), left=left)
        if one_less is not None:
            bucket = one_less
            called.append(now)
    return called


@given(rates, steps)
def test_no_window_has_more_calls_than_burst_and_refill(
    rate: Rate, attempts: list[tuple[float, int]]
) -> None:
    calls = call_times(rate, attempts)
    for first in range(len(calls)):
        for last in range(first, len(calls)):
            window = calls[last] - calls[first]
            # Times are rounded to microseconds.
            maximum = rate.burst + rate.per_second * (window + 1e-5 * len(calls))
            assert last - first + 1 <= maximum


@given(rates, st.lists(st.floats(0, 10), max_size=40))
def test_calls_at_the_refill_rate_are_never_held_back(rate: Rate, waits: list[float]) -> None:
    attempts = [(1.001 / rate.per_second + wait, 0) for wait in waits]
    assert len(call_times(rate, attempts)) == len(waits)


@given(rates, st.integers(1, 1000), st.lists(st.floats(-1000, 1000), max_size=30))
def test_different_clocks_delay_a_call_by_one_refill_at_most(
    rate: Rate, left: int, moments: list[float]
) -> None:
    bucket = TokenBucket(rate.burst, NOON)
    for moment in moments:
        bucket = bucket.refilled(rate, after(moment))
        bucket = bucket.take(rate, after(moment)) or bucket
    full_again = bucket.at + timedelta(seconds=rate.burst / rate.per_second + 0.001)
    assert bucket.take(rate, full_again, left=left) is not None
