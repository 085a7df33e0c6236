"""The rules of a clean price series, as tables of cases."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from sef.prices.merge import SeriesBounds, append, can_append, merge, merge_windows
from sef.prices.series import CleaningRules, Observation, Point, clean_series, fill, points
from sef.terms import Flag, Interpolation
from tests.prices.observations import (
    AVERAGED,
    DIVERGENT,
    INTERPOLATED,
    NORMAL,
    RULES,
    at,
    primary,
    replica,
    seconds_of,
    shown,
)

MICRO = 0.000001


def test_the_default_rules_are_the_agreed_ones():
    assert CleaningRules() == CleaningRules(
        pairing_tolerance=timedelta(seconds=30),
        divergence_limit=Decimal("0.05"),
        gap_detection_threshold=timedelta(seconds=600),
        interpolation_max_gap=timedelta(seconds=1800),
        interpolation_step=timedelta(seconds=300),
        interpolation_method=Interpolation.LINEAR,
    )


# Rule 1: repeats and corrections


def test_a_repeat_changes_nothing():
    assert points([primary(0), primary(0)], RULES) == points([primary(0)], RULES)


def test_the_last_received_of_two_prices_for_one_time_counts():
    assert shown(points([primary(0, "0.05"), primary(0, "0.04")], RULES)) == [(0, "0.04", NORMAL)]


def test_sources_do_not_correct_each_other():
    assert shown(points([primary(0, "0.05"), replica(0, "0.049")], RULES)) == [
        (0, "0.0495", AVERAGED)
    ]


# Rule 2: pairs

P, R = primary, replica
PAIRING = {
    "same instant": ([P(0), R(0)], {(0, 0)}),
    "exactly the tolerance apart": ([P(0), R(30)], {(0, 30)}),
    "exactly the tolerance apart, replica first": ([P(30), R(0)], {(30, 0)}),
    "a microsecond more than the tolerance": ([P(0), R(30 + MICRO)], set()),
    "a microsecond more, replica first": ([P(30 + MICRO), R(0)], set()),
    "one source alone": ([P(0), P(10)], set()),
    "the nearer replica": ([P(10), R(0), R(15)], {(10, 15)}),
    "the nearer primary": ([R(10), P(0), P(15)], {(15, 10)}),
    "two replicas equally near: the earlier": ([P(15), R(0), R(30)], {(15, 0)}),
    "two primaries equally near: the earlier": ([R(15), P(0), P(30)], {(0, 15)}),
    "nearest is not mutual": ([P(0), R(20), P(25)], {(25, 20)}),
    "a half that loses its nearest does not take the next": (
        [R(0), P(10), R(11), P(40)],
        {(10, 11)},
    ),
    "a chain of equal steps pairs from the earliest": ([P(0), R(10), P(20), R(30)], {(0, 10)}),
    "each tick pairs with its own": ([P(0), R(5), P(300), R(305)], {(0, 5), (300, 305)}),
}


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "backwards"])
@pytest.mark.parametrize(
    ("observations", "expected"), PAIRING.values(), ids=[name.replace(" ", "-") for name in PAIRING]
)
def test_pairs_are_mutually_nearest_and_within_the_tolerance(observations, expected, order):
    made = points(observations[::order], RULES)
    found = {
        (seconds_of(point.at), seconds_of(point.replica_at))
        for point in made
        if point.primary is not None and point.replica is not None
    }
    assert found == expected
    assert len(made) == len(observations) - len(expected)


def test_a_pair_is_one_point_at_the_time_of_the_primary():
    (point,) = points([primary(20, "0.0456"), replica(0, "0.0458")], RULES)
    assert point == Point(
        at(20), Decimal("0.0457"), Flag.AVERAGED, Decimal("0.0456"), Decimal("0.0458"), at(0)
    )


@pytest.mark.parametrize(
    ("one", "other", "mean"),
    [
        ("0.0456", "0.0458", "0.0457"),
        ("0.00000100", "0.00000101", "0.000001005"),
        ("1000", "999.99999999", "999.999999995"),
        ("0.00000001", "0.00000001", "0.00000001"),
    ],
)
def test_the_mean_is_exact(one, other, mean):
    (point,) = points([primary(0, one), replica(0, other)], RULES)
    assert point.price == Decimal(mean)
    assert point.flag is Flag.AVERAGED


def test_a_lone_replica_is_a_point_at_its_own_time():
    assert points([replica(7, "0.04")], RULES) == [
        Point(at(7), Decimal("0.04"), Flag.NORMAL, None, Decimal("0.04"), at(7))
    ]


# Rule 3: divergence


@pytest.mark.parametrize(
    ("one", "other", "limit", "flag"),
    [
        pytest.param("1.025", "0.975", "0.05", AVERAGED, id="exactly-5-percent-of-the-mean"),
        pytest.param("0.975", "1.025", "0.05", AVERAGED, id="exactly-5-percent-replica-dearer"),
        pytest.param("1.02500001", "0.975", "0.05", DIVERGENT, id="slightly-more"),
        pytest.param("0.975", "1.02500001", "0.05", DIVERGENT, id="slightly-more-replica-dearer"),
        pytest.param("1", "0.951", "0.05", DIVERGENT, id="under-5-percent-of-the-larger-only"),
        pytest.param("0.05", "0.0458", "0.05", DIVERGENT, id="8.8-percent"),
        pytest.param("0.00000001", "0.00000002", "0.05", DIVERGENT, id="smallest-prices"),
        pytest.param("0.00000001", "1000", "2", AVERAGED, id="never-with-a-limit-of-2"),
        pytest.param("0.05", "0.05", "0", AVERAGED, id="equal-with-a-limit-of-0"),
        pytest.param("0.05", "0.05000001", "0", DIVERGENT, id="unequal-with-a-limit-of-0"),
    ],
)
def test_a_pair_that_differs_by_more_than_the_limit_is_not_averaged(one, other, limit, flag):
    rules = replace(RULES, divergence_limit=Decimal(limit))
    (point,) = points([primary(0, one), replica(10, other)], rules)
    mean = (Decimal(one) + Decimal(other)) / 2
    assert point.flag.value == flag
    assert point.price == (Decimal(one) if flag == DIVERGENT else mean)
    assert (point.primary, point.replica) == (Decimal(one), Decimal(other))


# Rule 5: gaps

FILLS = {
    "600 s is no gap": (600, []),
    "a microsecond more is a gap": (600 + MICRO, [300, 600]),
    "strictly before the later point": (900, [300, 600]),
    "1799 s": (1799, [300, 600, 900, 1200, 1500]),
    "1800 s is filled": (1800, [300, 600, 900, 1200, 1500]),
    "a microsecond more is too wide": (1800 + MICRO, []),
    "a second apart": (1, []),
}


@pytest.mark.parametrize(
    ("width", "expected"), FILLS.values(), ids=[name.replace(" ", "-") for name in FILLS]
)
def test_a_gap_is_filled_every_five_minutes_from_the_earlier_point(width, expected):
    made = fill(at(7), Decimal(1), at(7 + width), Decimal(2), RULES)
    assert [seconds_of(point.at) - 7 for point in made] == expected
    assert all(point.flag is Flag.INTERPOLATED for point in made)
    assert not any(list(point.observations()) or point.is_real for point in made)


@pytest.mark.parametrize(
    ("method", "prices"),
    [
        (Interpolation.LINEAR, ["0.0525", "0.055", "0.0575"]),
        (Interpolation.PREVIOUS, ["0.05", "0.05", "0.05"]),
    ],
    ids=str,
)
def test_a_fill_is_linear_or_repeats_the_previous_price(method, prices):
    rules = replace(RULES, interpolation_method=method)
    rows = clean_series([primary(0, "0.05"), primary(1200, "0.06")], rules)
    assert shown(rows[1:-1]) == [
        (300 * (i + 1), price, INTERPOLATED) for i, price in enumerate(prices)
    ]


@pytest.mark.parametrize(
    ("start", "end", "price"),
    [
        pytest.param("0.00000001", "0.00000003", "0.000000017", id="a-third-up"),
        pytest.param("0.00000002", "0.00000001", "0.000000017", id="a-third-down"),
        pytest.param("1000", "0.00000001", "666.66666667", id="largest-to-smallest"),
    ],
)
def test_a_filled_price_is_rounded_to_nine_decimals(start, end, price):
    first = fill(at(0), Decimal(start), at(900), Decimal(end), RULES)[0]
    assert first.price == Decimal(price)


def test_a_filled_price_halfway_between_two_is_rounded_to_even():
    rules = replace(RULES, interpolation_step=timedelta(seconds=500))
    low = Decimal("0.000000010")
    for high, expected in (("0.000000011", "0.000000010"), ("0.000000013", "0.000000012")):
        (middle,) = fill(at(0), low, at(1000), Decimal(high), rules)
        assert middle.price == Decimal(expected)


@pytest.mark.parametrize(
    "change",
    [
        {"interpolation_max_gap": timedelta(seconds=500)},
        {"interpolation_max_gap": timedelta(0)},
        {"gap_detection_threshold": timedelta(seconds=1800)},
        {"gap_detection_threshold": timedelta(days=9)},
        {"interpolation_step": timedelta(seconds=1200)},
    ],
    ids=lambda change: "-".join(change),
)
def test_no_gap_is_filled_if_the_settings_exclude_it(change):
    rules = replace(RULES, **change)
    assert fill(at(0), Decimal(1), at(1200), Decimal(2), rules) == []


def test_a_gap_no_wider_than_the_step_gets_no_point():
    rules = replace(RULES, gap_detection_threshold=timedelta(seconds=100))
    assert fill(at(0), Decimal(1), at(300), Decimal(2), rules) == []
    assert len(fill(at(0), Decimal(1), at(301), Decimal(2), rules)) == 1


# Merging arrivals into a stored series


def merged(stored: list[Observation], arrivals: list[Observation]):
    rows = clean_series(stored, RULES)
    bounds = append(None, stored, RULES).bounds
    change = merge(bounds, rows, arrivals, RULES)
    after = {row.at: row for row in rows}
    for moment in change.deletes:
        del after[moment]
    after |= {point.at: point for point in change.upserts}
    return change, shown(sorted(after.values(), key=lambda row: row.at))


def test_a_late_point_refills_the_gap_on_both_sides():
    change, rows = merged([primary(0, "0.05"), primary(1800, "0.06")], [primary(1000, "0.08")])
    assert rows == [
        (0, "0.05", NORMAL),
        (300, "0.059", INTERPOLATED),
        (600, "0.068", INTERPOLATED),
        (900, "0.077", INTERPOLATED),
        (1000, "0.08", NORMAL),
        (1300, "0.0725", INTERPOLATED),
        (1600, "0.065", INTERPOLATED),
        (1800, "0.06", NORMAL),
    ]
    assert {seconds_of(moment) for moment in change.deletes} == {1200, 1500}


def test_a_late_point_that_leaves_no_gap_removes_the_fill_on_both_sides():
    _, rows = merged([primary(0, "0.05"), primary(1200, "0.06")], [primary(600, "0.08")])
    assert rows == [(0, "0.05", NORMAL), (600, "0.08", NORMAL), (1200, "0.06", NORMAL)]


def test_a_late_point_in_a_too_wide_gap_makes_it_fillable():
    _, rows = merged([primary(0, "1"), primary(2400, "1")], [primary(1500, "1")])
    assert [row[0] for row in rows if row[2] == INTERPOLATED] == [
        *(300, 600, 900, 1200),
        *(1800, 2100),
    ]


def test_a_correction_refills_the_gap_on_both_sides():
    stored = [primary(0, "1"), primary(900, "1"), primary(1800, "1")]
    _, rows = merged(stored, [primary(900, "4")])
    assert [price for _, price, flag in rows if flag == INTERPOLATED] == ["2", "3", "3", "2"]


def test_a_nearer_replica_replaces_the_paired_one():
    _, rows = merged([primary(20, "0.04"), replica(0, "0.042")], [replica(21, "0.041")])
    assert rows == [(0, "0.042", NORMAL), (20, "0.0405", AVERAGED)]


def test_the_point_of_a_lone_replica_moves_to_the_time_of_its_late_primary():
    change, rows = merged([replica(0, "0.042")], [primary(20, "0.04")])
    assert rows == [(20, "0.041", AVERAGED)]
    assert change.deletes == (at(0),)
    assert change.bounds == SeriesBounds(at(20), at(20), Decimal("0.041"), at(20))


def test_a_repeat_writes_nothing():
    change, _ = merged([primary(0), replica(5), primary(1200)], [replica(5), primary(1200)])
    assert (change.upserts, change.deletes) == ((), ())


# Arrivals that can be appended


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        pytest.param([primary(40)], False, id="could-pair-with-the-latest-replica"),
        pytest.param([replica(40)], False, id="of-either-source"),
        pytest.param([primary(40 + MICRO)], True, id="beyond-the-tolerance"),
        pytest.param([primary(900), primary(-5)], False, id="one-of-them-late"),
        pytest.param([primary(900), primary(50)], True, id="all-after-in-any-order"),
        pytest.param([], True, id="no-arrivals"),
    ],
)
def test_only_arrivals_that_cannot_pair_with_stored_ones_are_appended(arrivals, expected):
    bounds = SeriesBounds(at(-900), at(0), Decimal(1), latest_observed_at=at(10))
    assert can_append(bounds, arrivals, RULES) is expected


def test_any_arrivals_can_be_appended_to_an_empty_series():
    assert can_append(None, [primary(10), replica(5), primary(-900)], RULES)


def test_an_append_fills_the_gap_after_the_latest_point():
    bounds = append(None, [primary(0, "1"), replica(10, "1")], RULES).bounds
    change = append(bounds, [primary(900, "4")], RULES)
    assert shown(change.upserts) == [
        (300, "2", INTERPOLATED),
        (600, "3", INTERPOLATED),
        (900, "4", NORMAL),
    ]
    assert change.deletes == ()
    assert shown(change.points) == [(900, "4", NORMAL)]
    assert change.bounds == SeriesBounds(at(0), at(900), Decimal(4), at(900))


# Merge windows


def test_arrivals_that_affect_no_common_row_are_in_separate_windows():
    apart = 2 * RULES.reach.total_seconds()
    together = merge_windows([primary(apart), primary(0)], RULES)
    assert [[o.at for o in part.arrivals] for part in together] == [[at(0), at(apart)]]
    parts = merge_windows([primary(apart + MICRO), primary(0)], RULES)
    assert [[o.at for o in part.arrivals] for part in parts] == [[at(0)], [at(apart + MICRO)]]
    assert all(part.start == part.arrivals[0].at - RULES.reach for part in parts)
    assert all(part.end == part.arrivals[-1].at + RULES.reach for part in parts)


# The observations of a point


def test_a_point_returns_the_observations_it_was_made_from():
    (pair,) = points([primary(20, "0.04"), replica(0, "0.05")], RULES)
    assert list(pair.observations()) == [primary(20, "0.04"), replica(0, "0.05")]
    (lone,) = points([replica(0)], RULES)
    assert list(lone.observations()) == [replica(0)]
    (single,) = points([primary(0)], RULES)
    assert list(single.observations()) == [primary(0)]


@pytest.mark.parametrize("flag", Flag)
def test_every_point_except_an_interpolated_one_is_real(flag):
    assert Point(at(0), Decimal(1), flag).is_real is (flag is not Flag.INTERPOLATED)
