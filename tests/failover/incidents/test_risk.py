"""The risk of an interruption: worked cases, bounds, monotonic laws, and its reasons."""

from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sef.failover.incidents.risk import PRIOR_STRENGTH, History, Risk, assess, assess_for_launch

ROUNDING = 0.0001
"""Scores are rounded to four decimals."""


@st.composite
def histories(draw, most=200):
    recommendations = draw(st.integers(0, most))
    terminations = draw(st.integers(0, recommendations))
    return History(recommendations, terminations, draw(st.integers(0, most)))


prices = st.decimals(Decimal("0.00000001"), 1000, places=8)
price_lists = st.lists(prices, max_size=5)
on_demand = st.none() | prices
arguments_of_assess = (histories(), histories(), price_lists, on_demand)


def score(*arguments, **named):
    return assess(*arguments, **named).score


# Cases


def test_risk_without_any_history_is_one_half():
    risk = assess(History())
    assert risk.score == 0.5
    assert risk.reasons == ("no history in this pool, prior 0.50",)


@pytest.mark.parametrize(
    ("pool", "elsewhere", "expected"),
    [
        pytest.param((0, 0), (8, 0), 0.1, id="calm-fleet-is-the-prior"),
        pytest.param((0, 0), (8, 8), 0.9, id="stormy-fleet-is-the-prior"),
        pytest.param(
            (4, 0), (0, 0), 0.25, id="four-without-a-termination-weigh-as-much-as-the-prior"
        ),
        pytest.param((4, 4), (0, 0), 0.75, id="four-with-a-termination"),
        pytest.param((1, 1), (0, 0), 0.6, id="one-with-a-termination-proves-little"),
        pytest.param((1, 0), (0, 0), 0.4, id="one-without-a-termination-proves-little"),
        pytest.param((16, 4), (8, 0), 0.22, id="history-and-prior"),
    ],
)
def test_risk_is_the_share_of_terminations_with_a_prior_from_the_fleet(pool, elsewhere, expected):
    assert score(History(*pool), History(*elsewhere)) == expected


def test_the_prior_counts_for_four_recommendations():
    assert PRIOR_STRENGTH == 4


@pytest.mark.parametrize(
    ("listed", "on_demand_price", "expected"),
    [
        pytest.param([], None, 0.5, id="no-price"),
        pytest.param(["1"], None, 0.5, id="one-price-is-no-trend"),
        pytest.param(["1", "1"], None, 0.5, id="steady"),
        pytest.param(["1", "0.5"], None, 0.5, id="a-fall-does-not-lower-the-risk"),
        pytest.param(["1", "1.25"], None, 0.625, id="half-of-a-steep-rise"),
        pytest.param(["1", "1.5"], None, 0.75, id="a-steep-rise"),
        pytest.param(["1", "9"], None, 0.75, id="a-steeper-rise-counts-the-same"),
        pytest.param(["1", "9", "1"], None, 0.5, id="only-the-ends-count"),
        pytest.param(["1"], "2", 0.5, id="half-of-on-demand"),
        pytest.param(["1.5"], "2", 0.625, id="three-quarters-of-on-demand"),
        pytest.param(["2"], "2", 0.75, id="at-on-demand"),
        pytest.param(["9"], "2", 0.75, id="above-on-demand"),
        pytest.param([], "2", 0.5, id="on-demand-without-a-price"),
        pytest.param(["1", "2"], "2", 0.875, id="both-pressures"),
    ],
)
def test_price_pressure_adds_a_share_of_the_distance_to_one(listed, on_demand_price, expected):
    risk = score(
        History(),
        prices=[Decimal(price) for price in listed],
        on_demand_price=None if on_demand_price is None else Decimal(on_demand_price),
    )
    assert risk == expected


def test_risk_has_a_reason_for_each_of_its_parts():
    risk = assess(
        History(10, 3, 1), History(20, 1), [Decimal("0.05"), Decimal("0.06")], Decimal("0.08")
    )
    assert risk.reasons == (
        "3 of 10 recommendations in this pool ended in a termination, prior 0.09: 0.24",
        "a recommendation preceded 3 of 4 terminations",
        "price up by 20%",
        "price at 75% of on-demand",
    )


def test_price_without_pressure_is_no_reason():
    risk = assess(History(1, 0), History(), [Decimal(2), Decimal(1)], Decimal(8))
    assert len(risk.reasons) == 1


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        pytest.param((0, 0, 0), 0.5, id="no-history"),
        pytest.param((4, 0, 0), 0.25, id="recommendations-without-a-termination"),
        pytest.param((4, 4, 0), 0.75, id="recommendations-with-a-termination"),
        pytest.param((0, 0, 4), 0.75, id="terminations-without-a-recommendation"),
        pytest.param((4, 0, 4), 0.5, id="both"),
        pytest.param((12, 0, 4), 0.3, id="mostly-without-a-termination"),
    ],
)
def test_risk_of_a_launch_counts_terminations_without_a_recommendation(pool, expected):
    assert assess_for_launch(History(*pool)).score == expected


def test_risk_of_a_launch_has_its_reasons():
    assert assess_for_launch(History()) == Risk(0.5, ("no history in this pool, prior 0.50",))
    assert assess_for_launch(History(3, 1, 1)).reasons == (
        "2 of 4 incidents in this pool ended in a termination, prior 0.50: 0.50",
        "a recommendation preceded 1 of 2 terminations",
    )


@pytest.mark.parametrize(
    ("pool", "precision", "recall"),
    [
        pytest.param((0, 0, 0), None, None, id="nothing-happened"),
        pytest.param((4, 0, 0), 0, None, id="only-false-alarms"),
        pytest.param((4, 3, 1), 0.75, 0.75, id="both"),
        pytest.param((0, 0, 2), None, 0, id="never-warned"),
    ],
)
def test_history_has_precision_and_recall_of_the_recommendations(pool, precision, recall):
    history = History(*pool)
    assert (history.precision, history.recall) == (precision, recall)


# Laws


@given(*arguments_of_assess)
def test_risk_lies_between_0_and_1_and_has_a_reason(pool, elsewhere, listed, on_demand_price):
    risk = assess(pool, elsewhere, listed, on_demand_price)
    assert 0 <= risk.score <= 1
    assert risk.reasons
    assert all(reason.strip() for reason in risk.reasons)


@given(*arguments_of_assess, st.integers(1, 50))
def test_more_terminations_never_lower_the_risk(pool, elsewhere, listed, on_demand_price, more):
    now = score(pool, elsewhere, listed, on_demand_price)
    further = History(pool.recommendations + more, pool.terminations + more)
    assert score(further, elsewhere, listed, on_demand_price) >= now - ROUNDING
    fleet = History(elsewhere.recommendations + more, elsewhere.terminations + more)
    assert score(pool, fleet, listed, on_demand_price) >= now - ROUNDING
    graver = History(pool.recommendations, min(pool.recommendations, pool.terminations + more))
    assert score(graver, elsewhere, listed, on_demand_price) >= now - ROUNDING


@given(*arguments_of_assess, st.integers(1, 50))
def test_more_recommendations_without_a_termination_never_raise_the_risk(
    pool, elsewhere, listed, on_demand_price, more
):
    now = score(pool, elsewhere, listed, on_demand_price)
    further = History(pool.recommendations + more, pool.terminations)
    assert score(further, elsewhere, listed, on_demand_price) <= now + ROUNDING
    fleet = History(elsewhere.recommendations + more, elsewhere.terminations)
    assert score(pool, fleet, listed, on_demand_price) <= now + ROUNDING


@given(histories(), histories(), st.lists(prices, min_size=1, max_size=5), on_demand, prices)
def test_rising_price_never_lowers_the_risk(pool, elsewhere, listed, on_demand_price, last):
    assume(last >= listed[-1])
    now = score(pool, elsewhere, listed, on_demand_price)
    assert score(pool, elsewhere, [*listed, last], on_demand_price) >= now - ROUNDING
    assert score(pool, elsewhere, [*listed[:-1], last], on_demand_price) >= now - ROUNDING or (
        len(listed) == 1
    )


@given(histories(), histories(), st.lists(prices, min_size=1, max_size=5), prices, prices)
def test_price_near_on_demand_never_lowers_the_risk(pool, elsewhere, listed, one, other):
    nearer, further = sorted((one, other))
    none = score(pool, elsewhere, listed)
    far = score(pool, elsewhere, listed, further)
    assert none - ROUNDING <= far <= score(pool, elsewhere, listed, nearer) + ROUNDING


@given(histories(), histories(), price_lists, on_demand)
def test_prices_never_lower_the_risk(pool, elsewhere, listed, on_demand_price):
    assert score(pool, elsewhere, listed, on_demand_price) >= score(pool, elsewhere)


@given(st.floats(0, 1), histories())
def test_long_history_outweighs_the_prior(share, elsewhere):
    terminations = round(share * 1000)
    assert abs(score(History(1000, terminations), elsewhere) - terminations / 1000) < 0.005


@given(histories(most=20))
def test_prior_is_never_certain(elsewhere):
    assert 0 < score(History(), elsewhere) < 1


@given(histories(), st.integers(1, 50))
def test_risk_of_a_launch_rises_with_terminations_and_falls_with_false_alarms(pool, more):
    now = assess_for_launch(pool).score
    assert 0 < now < 1
    recommendations, terminations, unannounced = (
        pool.recommendations,
        pool.terminations,
        pool.unannounced,
    )
    for worse in (
        History(recommendations, terminations, unannounced + more),
        History(recommendations + more, terminations + more, unannounced),
        History(recommendations, min(recommendations, terminations + more), unannounced),
    ):
        assert assess_for_launch(worse).score >= now - ROUNDING
    calmer = History(recommendations + more, terminations, unannounced)
    assert assess_for_launch(calmer).score <= now + ROUNDING


@given(histories(), histories())
def test_risk_after_a_recommendation_ignores_other_terminations(pool, elsewhere):
    announced = History(pool.recommendations, pool.terminations)
    assert score(pool, elsewhere) == score(announced, elsewhere)


@given(histories())
def test_both_risks_are_equal_if_every_termination_had_a_recommendation(pool):
    announced = History(pool.recommendations, pool.terminations)
    assert assess_for_launch(announced).score == score(announced)
