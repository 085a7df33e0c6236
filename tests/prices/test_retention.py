"""Prices older than SEF_PRICE_RETENTION_DAYS are rolled up into buckets and deleted."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Row, select, text, update

from sef.db.tables import price_series, pricing_daily, pricing_hourly
from sef.prices.series import Point
from sef.terms import Flag
from smart_emergency_fallback import SmartEmergencyFallback
from tests.db.rows import events, stored_points, transaction
from tests.harness import MakeSef

FIRST = datetime(2024, 3, 1, tzinfo=UTC)
DAYS = 5
LATER = FIRST + timedelta(days=60)
"""A time at which all days are settled. With a retention of 57 days, the first three are old."""


class Stage:
    """SEF with a retention of 57 days, and a clock that the test sets."""

    def __init__(self, make_sef: MakeSef, url: str) -> None:
        self.now = FIRST + timedelta(days=DAYS)
        self.url = url
        self.sef: SmartEmergencyFallback = make_sef(clock=lambda: self.now, price_retention_days=57)

    def report(self, at: datetime, price: float = 0.05, agent_id: str = "a") -> None:
        body = {"spot_price": price, "pool_id": "p", "timestamp": at.isoformat()}
        assert self.sef.process_incoming_data(agent_id, "pricing", body)["status"] == "success"

    def fill(self, agent_id: str = "a") -> None:
        """Report six prices, 20 minutes apart, on each of five days; SEF fills the gaps."""
        for day in range(DAYS):
            for number in range(6):
                at = FIRST + timedelta(days=day, hours=10, minutes=20 * number)
                self.report(at, 0.05 + day / 1000 + number / 10000, agent_id)

    def points(self, agent_id: str = "a") -> list[Point]:
        return stored_points(self.url, agent_id, "p")

    def buckets(self, table: Any, agent_id: str = "a") -> list[Row[Any]]:
        with transaction(self.url) as connection:
            statement = select(table).where(table.c.agent_id == agent_id)
            return list(connection.execute(statement.order_by(table.c.starts_at)))


ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ON_MARIADB = pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)


@pytest.fixture
def stage(make_sef: MakeSef, database_url: str) -> Stage:
    return Stage(make_sef, database_url)


def test_old_days_become_buckets_and_newer_days_stay_unchanged(stage: Stage) -> None:
    stage.fill()
    before = stage.points()
    assert sum(point.flag is Flag.INTERPOLATED for point in before) == DAYS * 5 * 3
    stage.now = LATER
    assert stage.sef.delete_old_prices() == 3
    assert stage.points() == [p for p in before if p.at >= FIRST + timedelta(days=3)]
    days = stage.buckets(pricing_daily)
    assert [(row.starts_at, row.points) for row in days] == [
        (FIRST + timedelta(days=day), 6) for day in range(3)
    ]
    prices = [Decimal("0.051") + Decimal(number) / 10000 for number in range(6)]
    row = days[1]
    assert (row.min_price, row.max_price) == (prices[0], prices[5])
    assert (row.first_price, row.last_price) == (prices[0], prices[5])
    assert row.mean_price == sum(prices) / 6
    hours = stage.buckets(pricing_hourly)
    assert [(row.starts_at.hour, row.points) for row in hours] == [(10, 3), (11, 3)] * 3


def test_a_second_run_changes_nothing(stage: Stage) -> None:
    stage.fill()
    stage.now = LATER
    stage.sef.delete_old_prices()
    once = (stage.points(), stage.buckets(pricing_daily), stage.buckets(pricing_hourly))
    assert stage.sef.delete_old_prices() == 0
    assert (stage.points(), stage.buckets(pricing_daily), stage.buckets(pricing_hourly)) == once


@ON_SQLITE
def test_no_price_is_deleted_without_a_retention_setting(make_sef: MakeSef, stage: Stage) -> None:
    stage.fill()
    before = stage.points()
    assert make_sef(clock=lambda: LATER + timedelta(days=10_000)).delete_old_prices() == 0
    assert stage.points() == before


@ON_SQLITE
def test_the_newest_day_of_a_series_is_never_deleted(stage: Stage) -> None:
    stage.fill()
    stage.now = LATER + timedelta(days=1000)
    assert stage.sef.delete_old_prices() == DAYS - 1
    assert {point.at.date() for point in stage.points()} == {(FIRST + timedelta(days=4)).date()}


def test_a_day_with_a_recent_report_is_rolled_up_a_day_later(stage: Stage) -> None:
    stage.fill("a")
    stage.fill("b")
    stage.now = LATER
    stage.report(FIRST + timedelta(hours=10, minutes=5), 0.9, "a")
    assert stage.sef.delete_old_prices() == 3, "only days of b"
    assert stage.buckets(pricing_daily, "a") == []
    stage.now = LATER + timedelta(days=1, seconds=1)
    stage.sef.delete_old_prices()
    first = stage.buckets(pricing_daily, "a")[0]
    assert (first.points, first.max_price) == (7, Decimal("0.9"))


def test_a_report_for_a_deleted_day_changes_no_bucket_and_writes_an_event(stage: Stage) -> None:
    stage.fill()
    stage.now = LATER
    stage.sef.delete_old_prices()
    kept, days = stage.points(), stage.buckets(pricing_daily)
    stage.report(FIRST + timedelta(hours=10))  # a repeat
    stage.report(FIRST + timedelta(hours=12), 0.9)  # a new one
    stage.now = LATER + timedelta(days=1, seconds=1)
    assert stage.sef.delete_old_prices() >= 1
    assert stage.buckets(pricing_daily)[:3] == days
    assert set(stage.points()) <= set(kept)
    (event,) = events(stage.url, "a", "prices_too_late")
    assert event.details["prices"] == 2


def test_reports_are_stored_at_both_ends_of_the_kept_days(stage: Stage) -> None:
    stage.fill()
    stage.now = LATER
    stage.sef.delete_old_prices()
    kept = stage.points()
    early = FIRST + timedelta(days=3, hours=9, minutes=58)
    late = FIRST + timedelta(days=4, hours=11, minutes=50)
    stage.report(early)
    stage.report(late)
    assert stage.points() == [
        Point(early, Decimal("0.05"), Flag.NORMAL, Decimal("0.05")),
        *kept,
        Point(late, Decimal("0.05"), Flag.NORMAL, Decimal("0.05")),
    ]


def test_a_gap_over_midnight_stays_filled_on_the_kept_day(stage: Stage) -> None:
    midnight = FIRST + timedelta(days=3)
    for minutes in (-10, 10):
        stage.report(midnight + timedelta(minutes=minutes), 0.05)
    stage.report(midnight + timedelta(days=1))
    stage.now = LATER
    stage.sef.delete_old_prices()
    points = stage.points()
    assert [(p.at - midnight, p.flag) for p in points[:2]] == [
        (timedelta(), Flag.INTERPOLATED),
        (timedelta(minutes=5), Flag.INTERPOLATED),
    ]
    # A late report in the gap replaces its interpolated points.
    stage.report(midnight + timedelta(minutes=2))
    assert (midnight + timedelta(minutes=2)) in [p.at for p in stage.points()]


@ON_SQLITE
def test_a_run_stops_at_its_maximum_and_the_next_run_continues(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sef.prices.retention.DAYS_PER_RUN", 2)
    stage.fill()
    stage.now = LATER
    assert [stage.sef.delete_old_prices() for _ in range(3)] == [2, 1, 0]


@ON_MARIADB
def test_series_survive_a_dropped_partition_of_a_month(stage: Stage) -> None:
    april = datetime(2024, 4, 1, tzinfo=UTC)
    with transaction(stage.url) as connection:
        connection.execute(
            text(
                "ALTER TABLE pricing_reports PARTITION BY RANGE COLUMNS (timestamp) ("
                "PARTITION p2024_03 VALUES LESS THAN ('2024-04-01'), "
                "PARTITION later VALUES LESS THAN (MAXVALUE))"
            )
        )
    try:
        stage.fill()
        stage.now = april + timedelta(days=1)
        stage.report(april)
        with transaction(stage.url) as connection:
            connection.execute(text("ALTER TABLE pricing_reports DROP PARTITION p2024_03"))
        assert [point.at for point in stage.points()] == [april]
        stage.now = april + timedelta(days=100)
        stage.sef.delete_old_prices()
        stage.report(april - timedelta(minutes=20))
        stage.report(april + timedelta(minutes=20))
        real = [point.at for point in stage.points() if point.flag is not Flag.INTERPOLATED]
        assert real == [april + timedelta(minutes=minutes) for minutes in (-20, 0, 20)]
    finally:
        with transaction(stage.url) as connection:
            connection.execute(text("ALTER TABLE pricing_reports REMOVE PARTITIONING"))


@ON_MARIADB
def test_a_series_that_raises_does_not_delay_the_others(stage: Stage) -> None:
    stage.fill("a")
    stage.fill("b")
    # The next version of the series does not fit into its column.
    with transaction(stage.url) as connection:
        columns = price_series.c
        connection.execute(
            update(price_series).where(columns.agent_id == "a").values(version=2**63 - 1)
        )
    stage.now = LATER
    assert stage.sef.delete_old_prices() == 3
    assert len(stage.buckets(pricing_daily, "b")) == 3
    assert stage.buckets(pricing_daily, "a") == []
