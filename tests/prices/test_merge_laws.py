"""Laws of a clean series for every set of observations and all rules."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sef.prices.merge import append, can_append, merge, merge_windows
from sef.prices.series import Observation, clean_series, pairs, points
from sef.terms import STORED_STEP, Flag, Interpolation, Source
from tests.prices import observations as some
from tests.prices import oracle
from tests.prices.memory_store import MemoryStore, bounds_of
from tests.prices.observations import holds

OPPOSITE = {Source.PRIMARY: Source.REPLICA, Source.REPLICA: Source.PRIMARY}


# The definition


@settings(max_examples=120)
@given(st.one_of(some.observation_sets(), some.dense_sets), some.rules, st.randoms())
def test_a_clean_series_equals_the_oracle(observations, rules, random):
    shuffled = random.sample(observations, len(observations))
    assert clean_series(shuffled, rules) == oracle.series(observations, rules)


@settings(max_examples=120)
@given(some.dense_sets, some.rules, st.randoms())
def test_pairs_are_mutually_nearest(observations, rules, random):
    random.shuffle(observations)
    found = pairs(observations, rules.pairing_tolerance)
    assert len(found) == len(set(found))
    assert set(found) == oracle.paired(observations, rules.pairing_tolerance)


@settings(max_examples=100)
@given(some.dense_sets, some.rules)
def test_pairing_treats_both_sources_alike(observations, rules):
    swapped = [replace(seen, source=OPPOSITE[seen.source]) for seen in observations]

    def moments(found):
        return {tuple(half and half.at for half in pair) for pair in found}

    assert moments(pairs(swapped, rules.pairing_tolerance)) == {
        (replica, primary)
        for primary, replica in moments(pairs(observations, rules.pairing_tolerance))
    }


@settings(max_examples=100)
@given(some.observation_sets(), some.rules)
def test_no_observation_is_lost_or_invented(observations, rules):
    rows = clean_series(observations, rules)
    assert Counter(seen for row in rows for seen in row.observations()) == Counter(observations)
    assert all(holds(row, seen) for row in rows for seen in row.observations())


@settings(max_examples=100)
@given(some.observation_sets(), some.rules)
def test_no_two_rows_share_an_instant_and_prices_can_be_stored(observations, rules):
    rows = clean_series(observations, rules)
    assert all(before.at < after.at for before, after in pairwise(rows))
    assert all(row.price == row.price.quantize(STORED_STEP) and row.price > 0 for row in rows)


@settings(max_examples=120)
@given(some.prices, some.prices)
def test_the_price_of_a_pair_is_the_exact_mean_or_the_primarys(one, other):
    (point,) = points(
        [Observation(Source.PRIMARY, some.T, one), Observation(Source.REPLICA, some.T, other)],
        some.RULES,
    )
    # |a - b| > 5 % of (a + b) / 2, in whole units of 1e-8 USD
    a, b = (int(price.scaleb(8)) for price in (one, other))
    if 40 * abs(a - b) > a + b:
        assert (point.flag, point.price) == (Flag.DIVERGENT, one)
    else:
        assert (point.flag, point.price) == (Flag.AVERAGED, Decimal(5 * (a + b)).scaleb(-9))


# Fills


@settings(max_examples=120)
@given(some.observation_sets(8), some.rules)
def test_fills_lie_between_their_neighbours_in_time_and_price(observations, rules):
    rows = clean_series(observations, rules)
    real = [row for row in rows if row.is_real]
    for before, after in pairwise(real):
        between = [row for row in rows if before.at < row.at < after.at]
        low, high = sorted((before.price, after.price))
        assert all(low <= row.price <= high for row in between)
        if rules.interpolation_method is Interpolation.PREVIOUS:
            assert all(row.price == before.price for row in between)
        prices = [before.price, *(row.price for row in between)]
        assert prices == sorted(prices, reverse=after.price < before.price)
        if between:
            assert rules.gap_detection_threshold < after.at - before.at
            assert after.at - before.at <= rules.interpolation_max_gap
    assert all(real[0].at <= row.at <= real[-1].at for row in rows)


@settings(max_examples=100)
@given(some.observation_sets(), some.rules)
def test_the_observations_of_a_series_make_the_same_series(observations, rules):
    rows = clean_series(observations, rules)
    assert clean_series((seen for row in rows for seen in row.observations()), rules) == rows


@settings(max_examples=100)
@given(some.observation_sets(), some.prices, some.rules)
def test_interpolated_points_never_affect_other_points(observations, nonsense, rules):
    """Stored fills with a wrong price change only the rows that are written, not the result."""
    *stored, arrival = observations
    if not stored:
        return
    rows = [
        row if row.is_real else replace(row, price=nonsense) for row in clean_series(stored, rules)
    ]
    change = merge(bounds_of(stored, rules), rows, [arrival], rules)
    after = {row.at: row for row in rows if row.at not in change.deletes}
    after |= {point.at: point for point in change.upserts}
    assert sorted(after.values(), key=lambda row: row.at) == oracle.series(observations, rules)
    assert change.bounds == bounds_of(observations, rules)


# Append and merge


@settings(max_examples=120)
@given(
    some.deliveries(st.one_of(some.observation_sets(), some.dense_sets)),
    some.rules,
    st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_any_mixture_of_append_and_merge_gives_the_clean_series(delivery, rules, fast):
    store = MemoryStore(rules)
    for batch, prefers_append in zip(delivery, fast, strict=False):
        store.received += batch
        if prefers_append and can_append(store.bounds, batch, rules):
            store.write_change(append(store.bounds, batch, rules))
        else:
            for window in merge_windows(batch, rules):
                near = store.within([window])
                store.write_change(merge(store.bounds, near, window.arrivals, rules))
        store.check()


@settings(max_examples=120)
@given(some.observation_sets(), some.rules, st.integers(0, 12), st.randoms())
def test_append_and_merge_give_the_same_rows_where_append_is_possible(
    observations, rules, cut, random
):
    """`cut` divides stored observations from arrivals. Cases without an append are skipped."""
    stored, arrivals = observations[:cut], observations[cut:]
    bounds = bounds_of(stored, rules)
    if not arrivals or not can_append(bounds, arrivals, rules):
        return
    random.shuffle(arrivals)
    fast, slow = MemoryStore(rules, bounds=bounds), MemoryStore(rules, bounds=bounds)
    for store in (fast, slow):
        store.rows = {row.at: row for row in oracle.series(stored, rules)}
        store.received = [*stored, *arrivals]
    change = append(bounds, arrivals, rules)
    fast.write_change(change)
    merged_points = set()
    for window in merge_windows(arrivals, rules):
        merged = merge(slow.bounds, slow.within([window]), window.arrivals, rules)
        slow.write_change(merged)
        merged_points |= set(merged.points)
    assert (fast.rows, fast.bounds) == (slow.rows, slow.bounds)
    assert set(change.points) <= merged_points
    fast.check()


@settings(max_examples=100)
@given(some.observation_sets(), some.rules)
def test_arrivals_that_can_be_appended_pair_with_no_stored_observation(observations, rules):
    for cut in range(1, len(observations)):
        stored, arrivals = observations[:cut], observations[cut:]
        if can_append(bounds_of(stored, rules), arrivals, rules):
            apart = [*oracle.real_points(stored, rules), *oracle.real_points(arrivals, rules)]
            assert apart == oracle.real_points(observations, rules)


# Merge windows


@settings(max_examples=120)
@given(some.dense_sets, some.rules, st.data())
def test_an_arrival_changes_only_rows_within_reach(observations, rules, data):
    arrival = data.draw(st.sampled_from(observations))
    others = [seen for seen in observations if seen != arrival]
    without, including = oracle.series(others, rules), oracle.series(observations, rules)
    for row in set(without) ^ set(including):
        assert abs(row.at - arrival.at) <= rules.reach


@settings(max_examples=120)
@given(some.deliveries_with_corrections(), some.rules)
def test_merge_windows_divide_the_arrivals_and_do_not_overlap(delivery, rules):
    arrivals = [seen for batch in delivery for seen in batch]
    windows = merge_windows(arrivals, rules)
    taken = [seen for window in windows for seen in window.arrivals]
    assert Counter(taken) == Counter(arrivals)
    assert oracle.last_received(sorted(arrivals, key=lambda o: o.at)) == oracle.last_received(taken)
    for window in windows:
        assert all(
            window.start + rules.reach <= seen.at <= window.end - rules.reach
            for seen in window.arrivals
        )
    assert all(one.end < following.start for one, following in pairwise(windows))
