"""The pools for a standby are ranked by market, risk, load and price."""

from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sef.failover.ranking import LAUNCHES_PER_POOL, RISK_STEP, Candidate, rank
from sef.terms import Market, Pool, parse_pool

# Pool ids


@pytest.mark.parametrize(
    ("pool_id", "instance_type", "zone"),
    [
        ("m5.large.us-east-1a", "m5.large", "us-east-1a"),
        ("c7gn.16xlarge.ap-southeast-2b", "c7gn.16xlarge", "ap-southeast-2b"),
        ("u-6tb1.metal.eu-central-1c", "u-6tb1.metal", "eu-central-1c"),
        ("u7i-12tb.224xlarge.us-west-2d", "u7i-12tb.224xlarge", "us-west-2d"),
        ("m7i.metal-24xl.us-east-1f", "m7i.metal-24xl", "us-east-1f"),
        ("m5.large.us-gov-west-1a", "m5.large", "us-gov-west-1a"),
        ("m5.large.us-iso-east-1b", "m5.large", "us-iso-east-1b"),
        ("t3.medium.us-west-2-lax-1a", "t3.medium", "us-west-2-lax-1a"),
        ("t3.medium.us-east-1-wl1-bos-wlz-1", "t3.medium", "us-east-1-wl1-bos-wlz-1"),
    ],
)
def test_a_pool_is_an_instance_type_and_a_zone(pool_id, instance_type, zone):
    assert parse_pool(pool_id) == Pool(instance_type, zone)
    assert str(parse_pool(pool_id)) == pool_id


@pytest.mark.parametrize(
    "pool_id",
    [
        None,
        "",
        "pool-1",
        "m5.large",
        "us-east-1a",
        "m5.us-east-1a",
        "m5.large.us-east",
        "m5.large.us-east-1a\n",
        " m5.large.us-east-1a",
        "m5.large.us-east-1a.x",
        "M5.LARGE.us-east-1a",
        "m5.large.US-EAST-1A",
        "m5.large us-east-1a",
        "m5.large/us-east-1a",
        ".large.us-east-1a",
        "m5..us-east-1a",
        "m5.large.1us-east-1a",
        "m\u06655.large.us-east-1a",
    ],
    ids=repr,
)
def test_an_invalid_pool_id_is_rejected(pool_id):
    assert parse_pool(pool_id) is None


# The order

A, B, C = (Pool("m5.large", f"us-east-1{zone}") for zone in "abc")
BIG = Pool("m5.xlarge", "us-east-1a")


def ranked(pools=(A, B, C), *, avoid=None, excluded=(), risks=None, spot=None, dear=None, od=False):
    return rank(
        pools,
        avoid=avoid,
        excluded=excluded,
        risks={str(pool): risk for pool, risk in (risks or {}).items()},
        spot_prices={str(pool): Decimal(price) for pool, price in (spot or {}).items()},
        on_demand_prices={kind: Decimal(price) for kind, price in (dear or {}).items()},
        on_demand=od,
    )


def order(*arguments, **named):
    return [candidate.pool for candidate in ranked(*arguments, **named)]


def test_the_safer_pool_comes_first():
    assert order(risks={A: 0.9, B: 0.2, C: 0.4}) == [B, C, A]


def test_risk_comes_before_price():
    assert order(risks={A: 0.9, B: 0.2, C: 0.4}, spot={A: 1, B: 3, C: 2}) == [B, C, A]


def test_the_cheaper_of_equally_risky_pools_comes_first():
    assert order(risks={A: 0.2, B: 0.2, C: 0.2}, spot={A: 3, B: 1, C: 2}) == [B, C, A]


def test_price_decides_at_a_small_difference_of_risk():
    assert order(risks={A: 0.20, B: 0.21, C: 0.22}, spot={A: 3, B: 2, C: 1}) == [C, B, A]


def test_risk_decides_at_a_difference_of_a_tenth():
    assert order(risks={A: 0.2, B: 0.3, C: 0.4}, spot={A: 3, B: 2, C: 1}) == [A, B, C]


def test_a_pool_without_a_price_comes_after_its_equals():
    assert order(spot={B: 2, C: 1}) == [C, B, A]


def test_a_pool_without_a_risk_has_a_risk_of_one_half():
    assert order(risks={A: 0.6, B: 0.4}) == [B, C, A]
    assert [candidate.risk for candidate in ranked([C])] == [0.5]


def test_the_interrupted_pool_is_never_tried_for_spot():
    assert order(avoid=A, risks={A: 0, B: 1, C: 1}) == [B, C]
    assert order([A], avoid=A) == []


def test_the_interrupted_pool_comes_last_for_on_demand():
    ranking = ranked(avoid=A, dear={"m5.large": 1}, od=True)
    assert [(c.pool, c.market) for c in ranking] == [
        (B, Market.SPOT),
        (C, Market.SPOT),
        (B, Market.ON_DEMAND),
        (C, Market.ON_DEMAND),
        (A, Market.ON_DEMAND),
    ]


def test_on_demand_comes_after_all_spot_pools_and_by_price():
    ranking = ranked([BIG, A], risks={A: 1, BIG: 1}, dear={"m5.large": 2, "m5.xlarge": 1}, od=True)
    assert [(c.pool, c.market, c.risk, c.price) for c in ranking] == [
        (A, Market.SPOT, 1, None),
        (BIG, Market.SPOT, 1, None),
        (BIG, Market.ON_DEMAND, 0, Decimal(1)),
        (A, Market.ON_DEMAND, 0, Decimal(2)),
    ]


def test_a_tried_pool_is_excluded_in_its_market_only():
    excluded = {(str(A), Market.SPOT), (str(B), Market.ON_DEMAND)}
    ranking = ranked([A, B], excluded=excluded, od=True)
    assert [(c.pool, c.market) for c in ranking] == [(B, Market.SPOT), (A, Market.ON_DEMAND)]


def test_a_pool_named_twice_is_tried_once():
    assert order([A, B, A]) == [A, B]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (
            Candidate(A, Market.SPOT, 0.123, Decimal("0.0400")),
            "spot in m5.large.us-east-1a, risk 0.12, $0.04/h",
        ),
        (
            Candidate(B, Market.ON_DEMAND, 0, None),
            "on-demand in m5.large.us-east-1b, risk 0.00, price unknown",
        ),
        (
            Candidate(C, Market.SPOT, 0.5, Decimal("100")),
            "spot in m5.large.us-east-1c, risk 0.50, $100/h",
        ),
    ],
    ids=["spot", "on-demand", "round-price"],
)
def test_the_reason_of_a_candidate_has_market_pool_risk_and_price(candidate, reason):
    assert candidate.reason == reason


# Many launches at once


def launch_one_by_one(count, **situation):
    """Return the launches by pool after `count` launches into the best pool."""
    launches = {}
    for _ in range(count):
        best = rank(**situation, loads=launches)[0]
        launches[str(best.pool)] = launches.get(str(best.pool), 0) + 1
    return launches


def situation_of(pools, risks=None, prices=None):
    return {
        "pools": pools,
        "avoid": None,
        "excluded": (),
        "risks": {str(p): r for p, r in (risks or {}).items()},
        "spot_prices": {str(p): Decimal(d) for p, d in (prices or {}).items()},
        "on_demand_prices": {},
        "on_demand": False,
    }


@pytest.mark.parametrize(
    ("count", "risks", "expected"),
    [
        (1, {}, (1, 0, 0)),
        (LAUNCHES_PER_POOL, {}, (5, 0, 0)),
        (LAUNCHES_PER_POOL + 1, {}, (5, 1, 0)),
        (3 * LAUNCHES_PER_POOL, {}, (5, 5, 5)),
        (4 * LAUNCHES_PER_POOL + 2, {}, (10, 7, 5)),
        # A riskier pool gets no launch.
        (4 * LAUNCHES_PER_POOL, {C: 0.9}, (10, 10, 0)),
        (3 * LAUNCHES_PER_POOL, {A: 0.9, B: 0.9}, (0, 0, 15)),
        # A small difference of risk does not matter.
        (3 * LAUNCHES_PER_POOL, {A: 0.50, B: 0.51, C: 0.49}, (5, 5, 5)),
    ],
)
def test_many_launches_are_spread_over_the_pools_of_one_risk(count, risks, expected):
    prices = {A: "0.1", B: "0.2", C: "0.3"}
    launched = launch_one_by_one(count, **situation_of([A, B, C], risks, prices))
    assert tuple(launched.get(str(p), 0) for p in (A, B, C)) == expected


def test_a_few_recent_launches_do_not_change_the_order():
    ranking = ranked(spot={A: "0.1", B: "0.2"})
    loaded = rank(
        **situation_of([A, B, C], prices={A: "0.1", B: "0.2"}),
        loads={str(A): LAUNCHES_PER_POOL - 1},
    )
    assert loaded == ranking


# Laws

pool_lists = st.lists(
    st.builds(Pool, st.sampled_from(["m5.large", "c5.large"]), st.sampled_from("abcd")), max_size=8
)
all_pools = [Pool(kind, zone) for kind in ("m5.large", "c5.large") for zone in "abcd"]
some_prices = st.sampled_from([Decimal(n) / 10 for n in range(1, 5)])
markets = st.tuples(st.sampled_from([str(pool) for pool in all_pools]), st.sampled_from(Market))
situations = st.fixed_dictionaries(
    {
        "avoid": st.none() | st.sampled_from(all_pools),
        "excluded": st.sets(markets, max_size=4),
        "risks": st.dictionaries(
            st.sampled_from([str(pool) for pool in all_pools]), st.floats(0, 1)
        ),
        "spot_prices": st.dictionaries(
            st.sampled_from([str(pool) for pool in all_pools]), some_prices
        ),
        "on_demand_prices": st.dictionaries(st.sampled_from(["m5.large", "c5.large"]), some_prices),
        "on_demand": st.booleans(),
    }
)


@given(pool_lists, situations)
def test_each_allowed_pool_is_a_candidate_once_in_each_market(pools, situation):
    ranking = rank(pools, **situation)
    expected = {(pool, Market.SPOT) for pool in pools if pool != situation["avoid"]}
    if situation["on_demand"]:
        expected |= {(pool, Market.ON_DEMAND) for pool in pools}
    expected = {pair for pair in expected if (str(pair[0]), pair[1]) not in situation["excluded"]}
    assert len(ranking) == len(expected)
    assert {(candidate.pool, candidate.market) for candidate in ranking} == expected


@given(pool_lists, situations, st.randoms())
def test_the_order_does_not_depend_on_the_order_of_the_input(pools, situation, random):
    shuffled = random.sample(pools, len(pools))
    assert rank(pools, **situation) == rank([*shuffled, *pools], **situation)


@given(pool_lists, situations)
def test_no_candidate_ranks_before_a_clearly_safer_or_equally_risky_cheaper_one(pools, situation):
    ranking = rank(pools, **situation)
    spot = [candidate for candidate in ranking if candidate.market is Market.SPOT]
    assert ranking[: len(spot)] == spot
    for index, ahead in enumerate(spot):
        for behind in spot[index + 1 :]:
            assert ahead.risk < behind.risk + RISK_STEP + 1e-9
            if ahead.risk == behind.risk:
                assert (ahead.price is None, ahead.price or 0) <= (
                    behind.price is None,
                    behind.price or 0,
                )


@given(pool_lists, situations)
def test_the_avoided_pool_comes_last(pools, situation):
    ranking = rank(pools, **situation)
    assert all(candidate.pool != situation["avoid"] for candidate in ranking[:-1])
    if ranking and ranking[-1].pool == situation["avoid"]:
        assert ranking[-1].market is Market.ON_DEMAND


@given(pool_lists, situations, st.integers(1, 40))
def test_launches_are_balanced_within_one_risk_step(pools, situation, count):
    situation |= {"on_demand": False}
    candidates = rank(pools, **situation)
    assume(candidates)
    launched = launch_one_by_one(count, pools=pools, **situation)
    best = round(candidates[0].risk / RISK_STEP)
    equals = [c for c in candidates if round(c.risk / RISK_STEP) == best]
    loads = [launched.get(str(c.pool), 0) for c in equals]
    assert sum(loads) == count
    assert max(loads) - min(loads) <= LAUNCHES_PER_POOL


@given(
    pool_lists,
    situations,
    st.dictionaries(st.sampled_from([str(pool) for pool in all_pools]), st.integers(0, 30)),
)
def test_loads_change_the_order_within_one_risk_step_only(pools, situation, loads):
    plain, loaded = rank(pools, **situation), rank(pools, **situation, loads=loads)
    assert sorted(plain, key=repr) == sorted(loaded, key=repr)
    steps = [(c.market, round(c.risk / RISK_STEP)) for c in plain]
    assert [(c.market, round(c.risk / RISK_STEP)) for c in loaded] == steps
