"""Hourly and daily buckets of prices."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sef.prices.retention import DAY, HOUR, PriceBucket, price_buckets, start_of

T = datetime(2024, 3, 1, 10, tzinfo=UTC)


def at(minutes: float, price: str) -> tuple[datetime, Decimal]:
    return T + timedelta(minutes=minutes), Decimal(price)


def bucket(start: datetime, points: int, *prices: str) -> PriceBucket:
    return PriceBucket(start, points, *map(Decimal, prices))


@pytest.mark.parametrize(
    ("prices", "hours"),
    [
        pytest.param([], [], id="none"),
        pytest.param([at(0, "1")], [bucket(T, 1, "1", "1", "1", "1", "1")], id="one"),
        pytest.param(
            [at(0, "3"), at(30, "1"), at(59.9, "2")],
            [bucket(T, 3, "1", "3", "2", "3", "2")],
            id="first and last by time, minimum and maximum by price",
        ),
        pytest.param(
            [at(59.9, "2"), at(0, "3"), at(30, "1")],
            [bucket(T, 3, "1", "3", "2", "3", "2")],
            id="in any order",
        ),
        pytest.param(
            [at(0, "1"), at(60, "2")],
            [bucket(T, 1, "1", "1", "1", "1", "1"), bucket(T + HOUR, 1, "2", "2", "2", "2", "2")],
            id="an hour includes its start",
        ),
        pytest.param(
            [at(0, "1"), at(1, "1"), at(2, "2")],
            [bucket(T, 3, "1", "2", "1.333333333", "1", "2")],
            id="a mean with all stored digits",
        ),
    ],
)
def test_prices_are_rolled_up_into_hours(
    prices: list[tuple[datetime, Decimal]], hours: list[PriceBucket]
) -> None:
    assert price_buckets(prices, HOUR) == hours


def test_days_are_days_in_utc() -> None:
    assert start_of(datetime.fromisoformat("2024-03-01T23:30:00-02:00"), DAY) == datetime(
        2024, 3, 2, tzinfo=UTC
    )
    assert start_of(datetime(1969, 12, 31, 5, tzinfo=UTC), DAY) == datetime(
        1969, 12, 31, tzinfo=UTC
    )


@given(
    st.dictionaries(
        st.integers(0, 4 * 86_400).map(lambda second: T + timedelta(seconds=second)),
        st.decimals("0.00000001", "1000", places=8),
        min_size=1,
    )
)
def test_daily_buckets_match_the_hourly_ones_and_lose_no_point(
    prices: dict[datetime, Decimal],
) -> None:
    hours, days = price_buckets(prices.items(), HOUR), price_buckets(prices.items(), DAY)
    assert sum(hour.points for hour in hours) == sum(day.points for day in days) == len(prices)
    for day in days:
        of_day = [hour for hour in hours if start_of(hour.starts_at, DAY) == day.starts_at]
        assert day.points == sum(hour.points for hour in of_day)
        assert day.min_price == min(hour.min_price for hour in of_day)
        assert day.max_price == max(hour.max_price for hour in of_day)
        assert (day.first_price, day.last_price) == (of_day[0].first_price, of_day[-1].last_price)
        seen = [
            Fraction(p) for moment, p in prices.items() if start_of(moment, DAY) == day.starts_at
        ]
        assert abs(Fraction(day.mean_price) - sum(seen) / len(seen)) <= Fraction(1, 2 * 10**9)
