"""What holds of a stored series, however the reports come in: the promise of a clean series.

The store is a dict that reads only the stretches that `to_read` asks for, and writes only what
`plan` says. After every step its rows, its bounds and its buffer are compared with the rules.
"""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sef.prices.merge import SeriesBounds
from sef.prices.series import CleaningRules, clean_series
from sef.terms import Flag
from tests.prices import observations as some
from tests.prices import oracle
from tests.prices.memory_store import WINDOW, MemoryStore, Snapshot, bounds_of
from tests.prices.observations import (
    AVERAGED,
    DIVERGENT,
    INTERPOLATED,
    NORMAL,
    RULES,
    T,
    at,
    holds,
    primary,
    replica,
    shown,
)

mixed_deliveries = some.deliveries(st.one_of(some.observation_sets(), some.dense_sets))


def instant_of(observation):
    return observation.source, observation.at


def check_outcomes(store, batch, made, received_before):
    """That each arrival was told where it is, and whether it was a repeat."""
    last = {(seen.source, seen.at): seen for seen in received_before}
    assert len(made.outcomes) == len(batch)
    for arrival, outcome in zip(batch, made.outcomes, strict=True):
        assert outcome.is_repeat == (last.get((arrival.source, arrival.at)) == arrival)
        last[arrival.source, arrival.at] = arrival
        if outcome.point is None:
            assert (arrival.source, arrival.at) in store.buffer
        else:
            assert holds(outcome.point, arrival)
            assert store.rows[outcome.point.at] == outcome.point
    assert made.waiting_count == len(store.buffer)
    assert made.interpolated == sum(point.flag is Flag.INTERPOLATED for point in made.upserts)


# The worked case


def test_the_worked_case():
    store = MemoryStore(RULES)
    store.take([primary(0, "0.0456")])
    assert shown(store.series) == [(0, "0.0456", NORMAL)]
    (outcome,) = store.take([replica(0, "0.0458")]).outcomes
    assert outcome.point is not None
    assert shown(store.series) == shown([outcome.point]) == [(0, "0.0457", AVERAGED)]
    store.take([primary(0, "0.05")])
    assert shown(store.series) == [(0, "0.05", DIVERGENT)]
    assert store.take([primary(1200, "0.06")]).interpolated == 3
    assert shown(store.series) == [
        (0, "0.05", DIVERGENT),
        (300, "0.0525", INTERPOLATED),
        (600, "0.055", INTERPOLATED),
        (900, "0.0575", INTERPOLATED),
        (1200, "0.06", NORMAL),
    ]
    store.check()


def test_the_worked_case_with_a_replica_that_is_expected():
    store = MemoryStore(RULES)
    made = store.take([primary(0, "0.0456")], replica_expected=True)
    assert (made.waiting_count, made.outcomes[0].point, store.rows) == (1, None, {})
    made = store.take([replica(0, "0.0458")], replica_expected=True)
    assert (made.waiting_count, made.released) == (0, (primary(0, "0.0456"),))
    assert shown(store.series) == [(0, "0.0457", AVERAGED)]
    store.take([primary(0, "0.05")], replica_expected=True)
    assert shown(store.series) == [(0, "0.05", DIVERGENT)]
    store.take([primary(1200, "0.06")], replica_expected=True)
    assert len(store.rows) == 1
    store.take([], replica_expected=True, now=T + WINDOW)
    assert [row[1] for row in shown(store.series)] == ["0.05", "0.0525", "0.055", "0.0575", "0.06"]
    store.check()


# Any order, any repetition, any split


@settings(max_examples=150)
@given(mixed_deliveries, some.rules)
def test_any_order_repetition_and_split_ends_in_the_same_rows(delivery, rules):
    store = MemoryStore(rules)
    for batch in delivery:
        before = list(store.received)
        check_outcomes(store, batch, store.take(batch), before)
        store.check()
    assert store.series == clean_series(store.received, rules)


@settings(max_examples=150)
@given(mixed_deliveries, some.rules)
def test_one_batch_is_as_good_as_many(delivery, rules):
    everything = [seen for batch in delivery for seen in batch]
    store = MemoryStore(rules)
    check_outcomes(store, everything, store.take(everything), [])
    store.check()


@settings(max_examples=150)
@given(some.deliveries_with_corrections(), some.rules)
def test_a_correction_stands_in_any_arrangement_of_the_others(delivery, rules):
    store = MemoryStore(rules)
    for batch in delivery:
        before = list(store.received)
        check_outcomes(store, batch, store.take(batch), before)
        store.check()


@settings(max_examples=100)
@given(mixed_deliveries, some.rules)
def test_what_is_sent_again_writes_nothing(delivery, rules):
    store = MemoryStore(rules)
    for batch in delivery:
        store.take(batch)
    for batch in reversed(delivery):
        made = store.take(batch)
        assert (made.upserts, made.deletes, made.buffered, made.released) == ((), (), (), ())
        assert made.wide_gaps == ()
        assert all(outcome.is_repeat and outcome.point for outcome in made.outcomes)
    store.check()


@settings(max_examples=150)
@given(
    some.deliveries_with_corrections(),
    st.lists(st.integers(0, 1), min_size=60, max_size=60),
    st.lists(st.booleans(), min_size=60, max_size=60),
    some.rules,
)
def test_two_workers_that_read_again_before_they_write(delivery, turns, expected, rules):
    """A worker reads, and writes at a later turn; it starts over when the other was faster."""
    queues = (delivery[::2], delivery[1::2])
    store = MemoryStore(rules)
    reading = [None, None]

    def work(worker, replica_expected):
        batch = queues[worker][0]
        if reading[worker] is None:
            reading[worker] = store.read(batch)
            return
        snapshot, reading[worker] = reading[worker], None
        before = list(store.received)
        made = store.plan(snapshot, batch, replica_expected=replica_expected)
        if store.commit(snapshot, batch, made):
            check_outcomes(store, queues[worker].pop(0), made, before)
            store.check()

    for worker, replica_expected in zip(turns, expected, strict=True):
        if queues[worker]:
            work(worker, replica_expected)
    for worker in (0, 1):
        while queues[worker]:
            work(worker, False)
    store.take([])
    assert store.buffer == {}
    assert store.series == clean_series(store.received, rules)


@pytest.mark.parametrize(
    ("stored", "arrival"),
    [
        pytest.param(
            [primary(30), replica(45), primary(65)], replica(94), id="the-nearest-has-a-partner"
        ),
        pytest.param(
            [primary(5), replica(30), primary(55), replica(80)], primary(105), id="a-tie-further-on"
        ),
        pytest.param(
            [primary(20), replica(35), primary(60), replica(90), primary(120)],
            replica(149),
            id="a-partner-of-a-partner-129-s-away",
        ),
        pytest.param(
            [primary(0), replica(30), primary(60), replica(90), primary(400)],
            primary(150),
            id="and-one-exactly-five-tolerances-away",
        ),
        pytest.param(
            [primary(0), replica(10), primary(25), replica(45), primary(400)],
            primary(165),
            id="what-is-seen-without-its-neighbour-stays",
        ),
    ],
)
def test_a_pairing_hangs_on_a_chain_of_others(stored, arrival):
    """With no gap to fill, how far is read hangs on the pairings alone."""
    store = MemoryStore(CleaningRules(interpolation_max_gap=timedelta(0)))
    store.take(stored)
    store.take([arrival])
    store.check()


def test_what_was_read_of_a_fill_without_its_end_stays():
    """The fill at 1900 is read for the arrival at 1, the point at 3300 that it leads to is not."""
    store = MemoryStore(RULES)
    store.take([primary(0), primary(1600), primary(3300)])
    store.take([primary(1)])
    store.check()


def test_one_batch_may_change_several_stretches():
    store = MemoryStore(RULES)
    store.take([seen for day in (0, 86400) for seen in (primary(day), primary(day + 1200))])
    made = store.take([primary(day + 1000) for day in (0, 86400)])
    assert made.deletes == ()
    made = store.take([primary(day + 500) for day in (86400, 0)])
    assert set(made.deletes) == {at(300), at(600), at(900), at(86700), at(87000), at(87300)}
    store.check()


SHORT = [
    CleaningRules(interpolation_max_gap=timedelta(seconds=seconds)) for seconds in (0, 30, 601)
]
chains = some.observation_sets(
    14, min_size=6, steps=st.sampled_from([0, 5, 10, 14, 15, 16, 20, 25, 29, 30])
)


@settings(max_examples=250)
@given(chains, st.sampled_from(SHORT), st.data())
def test_in_a_dense_chain_the_neighbourhood_is_read_far_enough(observations, rules, data):
    """With little to fill, how far is read hangs on the pairings alone."""
    arrival = data.draw(st.sampled_from(observations))
    store = MemoryStore(rules)
    store.received = [seen for seen in observations if seen != arrival]
    store.rows = {row.at: row for row in oracle.series(store.received, rules)}
    store.bounds = bounds_of(store.received, rules)
    store.take([arrival])
    store.check()


def test_a_backfill_between_what_is_stored_is_merged_in_one_go():
    """Thousands of reports in one batch, each in a stretch of its own, are a normal use."""
    store = MemoryStore(RULES)
    store.take([primary(8000 * n) for n in range(4001)])
    batch = [primary(8000 * n + 4000) for n in range(4000)]
    stored = store.series
    seen = Snapshot(store.version, store.bounds, (), stored[:-1])  # all of them are near
    made = store.plan(seen, batch)
    assert len(made.upserts) == 4000


# Waiting


@settings(max_examples=150)
@given(
    st.one_of(mixed_deliveries, some.deliveries_with_corrections()),
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0, 0, 1, 150, 299, 300, 301]), st.booleans()),
        min_size=25,
        max_size=25,
    ),
    some.rules,
)
def test_waiting_changes_nothing_in_the_end(delivery, moments, rules):
    """A replica is expected or not, time passes, and the clean-up comes by, at any moments."""
    store = MemoryStore(rules)
    now = T
    for batch, (replica_expected, passes, is_cleaned) in zip(delivery, moments, strict=False):
        now += timedelta(seconds=passes)
        before = list(store.received)
        made = store.take(batch, replica_expected=replica_expected, now=now)
        check_outcomes(store, batch, made, before)
        store.check()
        if not replica_expected:
            assert store.buffer == {}
        if is_cleaned:
            store.take([], replica_expected=replica_expected, now=now)
            assert all(held.received_at > now - WINDOW for held in store.buffer.values())
            store.check()
    last = store.take([], replica_expected=True, now=now + WINDOW)
    assert (store.buffer, last.waiting_count) == ({}, 0)
    store.check()
    assert store.series == clean_series(store.received, rules)


def test_a_correction_of_what_waits_replaces_it_and_waits_on():
    store = MemoryStore(RULES)
    store.take([primary(0, "0.04")], replica_expected=True)
    made = store.take([primary(0, "0.05")], replica_expected=True, now=at(1))
    assert (made.buffered, made.released) == ((primary(0, "0.05"),), ())
    assert [outcome.is_repeat for outcome in made.outcomes] == [False]
    store.take([replica(3, "0.05")], replica_expected=True)
    assert shown(store.series) == [(0, "0.05", AVERAGED)]


def test_a_repeat_of_what_waits_neither_writes_nor_prolongs_the_wait():
    store = MemoryStore(RULES)
    store.take([primary(0)], replica_expected=True, now=T)
    made = store.take([primary(0)], replica_expected=True, now=at(200))
    assert (made.buffered, made.released, made.waiting_count) == ((), (), 1)
    assert [(outcome.point, outcome.is_repeat) for outcome in made.outcomes] == [(None, True)]
    made = store.take([], replica_expected=True, now=at(300))
    assert (made.released, made.waiting_count) == ((primary(0),), 0)


def test_a_repeat_that_finds_the_wait_over_is_told_its_point():
    store = MemoryStore(RULES)
    store.take([primary(0)], replica_expected=True)
    (outcome,) = store.take([primary(0)], replica_expected=False).outcomes
    assert outcome.is_repeat
    assert outcome.point == store.rows[T]


def test_a_price_that_changes_and_changes_back_is_no_repeat():
    store = MemoryStore(RULES)
    store.take([primary(0, "0.04")])
    made = store.take([primary(0, "0.05"), primary(0, "0.04")])
    assert [outcome.is_repeat for outcome in made.outcomes] == [False, False]
    assert shown(store.series) == [(0, "0.04", NORMAL)]


def test_a_late_other_half_still_merges_into_what_did_not_wait():
    store = MemoryStore(RULES)
    store.take([primary(0, "0.04")], replica_expected=False)
    made = store.take([replica(9, "0.041")], replica_expected=True)
    assert made.waiting_count == 0
    assert shown(store.series) == [(0, "0.0405", AVERAGED)]


def test_nothing_to_do_changes_nothing():
    made = MemoryStore(RULES).take([])
    assert (made.bounds, made.upserts, made.deletes, made.outcomes) == (None, (), (), ())


# The bounds


def test_the_head_follows_the_ends_of_the_series():
    store = MemoryStore(RULES)
    store.take([replica(20, "0.04")])
    assert store.bounds == SeriesBounds(at(20), at(20), Decimal("0.04"), at(20))
    store.take([primary(0, "0.041")])
    assert store.bounds == SeriesBounds(at(0), at(0), Decimal("0.0405"), at(20))
    store.take([primary(-900, "0.05")])
    assert store.bounds == SeriesBounds(at(-900), at(0), Decimal("0.0405"), at(20))
    store.take([replica(1, "0.041")])  # nearer: the replica at 20 is on its own again
    assert store.bounds == SeriesBounds(at(-900), at(20), Decimal("0.04"), at(20))
    store.take([replica(20, "0.06")])
    assert store.bounds == SeriesBounds(at(-900), at(20), Decimal("0.06"), at(20))
    store.check()


def test_an_append_reads_nothing_and_a_late_point_only_its_neighbourhood():
    store = MemoryStore(RULES)
    store.take([primary(3600 * hour) for hour in range(10)])
    assert store.read([primary(3600 * 10)]).stored == []
    assert store.read([primary(3600 * 9 + 31)]).stored == []
    assert [row.at for row in store.read([primary(3600 * 5 + 1)]).stored] == [at(3600 * 5)]
    both = store.read([primary(3600 * 5 + 1), primary(3600 * 2 + 1)]).stored
    assert [row.at for row in both] == [at(3600 * 2), at(3600 * 5)]


# Wide gaps


WIDE_GAPS = {
    "behind the bounds": ([6801], [(5000, 6801)]),
    "1800 s is not wide": ([6800], []),
    "1800 s and a microsecond is": ([6800.000001], [(5000, 6800.000001)]),
    "before the first": ([-1801], [(-1801, 0)]),
    "1800 s before the first": ([-1800], []),
    "in the middle of one that was told": ([2500], []),
    "beside the first": ([1], []),
    "beside the latest": ([4999], []),
    "several": ([-2000, 2500, 7000, 7100, 9000], [(-2000, 0), (5000, 7000), (7100, 9000)]),
    "nothing new": ([0, 5000], []),
}


@pytest.mark.parametrize(
    ("moments", "expected"), WIDE_GAPS.values(), ids=[name.replace(" ", "-") for name in WIDE_GAPS]
)
@pytest.mark.parametrize("order", [1, -1], ids=["in-order", "backwards"])
def test_a_wide_gap_is_told_when_an_end_of_the_series_moves_over_it(moments, expected, order):
    store = MemoryStore(RULES)
    store.take([primary(0), primary(5000)])
    assert store.told_gaps == [(at(0), at(5000))]
    told = store.take([primary(moment) for moment in moments][::order]).wide_gaps
    assert [(gap.start, gap.end) for gap in told] == [(at(a), at(b)) for a, b in expected]


def test_interpolated_points_do_not_part_a_wide_gap():
    """They end where the wide gap begins, whatever is written in one go with them."""
    store = MemoryStore(RULES)
    store.take([primary(0)])
    told = store.take([primary(1800), primary(4000)]).wide_gaps
    assert [(gap.start, gap.end) for gap in told] == [(at(1800), at(4000))]


far_apart = some.observation_sets(
    10, steps=st.sampled_from([31, 60, 601, 1799, 1800, 1801, 1802, 3700])
)


@settings(max_examples=150)
@given(far_apart.flatmap(some.split))
def test_in_order_appends_tell_each_wide_gap_once(delivery):
    store = MemoryStore(RULES)
    for batch in delivery:
        if not all(seen.at > store.bounds.latest_observed_at for seen in batch if store.bounds):
            continue
        assert store.read(batch).stored == []
        store.take(batch)
        assert store.told_gaps == oracle.wide_gaps(store.received, RULES)


@settings(max_examples=150)
@given(some.observation_sets(8).flatmap(some.split), st.booleans())
def test_primaries_alone_tell_each_wide_gap_once_forwards_and_backwards(delivery, backwards):
    delivery = [[primary(some.seconds_of(o.at)) for o in batch] for batch in delivery]
    if backwards:
        delivery = [batch[::-1] for batch in delivery[::-1]]
    store = MemoryStore(RULES)
    for batch in delivery:
        store.take(batch)
    assert sorted(store.told_gaps) == oracle.wide_gaps(store.received, RULES)


@pytest.mark.parametrize(
    ("delivery", "told"),
    [
        pytest.param([[primary(0)], [replica(1810)], [primary(1830)]], (0, 1810), id="on"),
        pytest.param([[primary(0)], [replica(1830)], [primary(1810)]], (0, 1830), id="back"),
        pytest.param(
            [[replica(20), primary(3000)], [primary(0)]], (20, 3000), id="the-start-moves-back"
        ),
    ],
)
def test_a_wide_gap_is_told_once_although_a_point_at_its_end_moves(delivery, told):
    store = MemoryStore(RULES)
    for batch in delivery:
        store.take(batch)
    assert store.told_gaps == [(at(told[0]), at(told[1]))]


@settings(max_examples=100)
@given(some.observation_sets(10), st.data())
def test_late_points_inside_wide_gaps_tell_none(observations, data):
    """Of one source: none makes another point move."""
    late = [primary(some.seconds_of(seen.at)) for seen in observations]
    store = MemoryStore(RULES)
    store.take([primary(-2000), primary(some.seconds_of(late[-1].at) + 2000)])
    told = list(store.told_gaps)
    for batch in data.draw(some.batches(late)):
        assert store.take(batch).wide_gaps == ()
    assert len(told) == 1


@settings(max_examples=150)
@given(st.one_of(some.deliveries(), some.deliveries_with_corrections()))
def test_a_wide_gap_is_told_when_there_was_none_before(delivery):
    """Rule 5, step by step: whatever is wide now and was not wide already is told, and no more.

    An old gap is the same one still when a point at its end has moved by a tolerance, to its
    primary's time or back.
    """
    store = MemoryStore(RULES)
    for batch in delivery:
        before = oracle.wide_gaps(store.received, RULES)
        told = [(gap.start, gap.end) for gap in store.take(batch).wide_gaps]
        assert told == [
            (start, end)
            for start, end in oracle.wide_gaps(store.received, RULES)
            if not any(
                old_start - RULES.pairing_tolerance <= start
                and end <= old_end + RULES.pairing_tolerance
                for old_start, old_end in before
            )
        ]


@pytest.mark.parametrize(
    "delivery",
    [
        pytest.param([[primary(0)], [replica(1795)], [primary(1805)]], id="in-order-of-time"),
        pytest.param([[replica(20)], [primary(0), primary(1815)]], id="the-start-moves-back"),
        pytest.param([[replica(1795)], [primary(0), primary(1805)]], id="the-end-moves-on"),
        pytest.param(
            [[replica(-25), primary(-10), replica(20), primary(1820)], [primary(0)]],
            id="the-start-moves-back-to-beside-another",
        ),
        pytest.param(
            [[primary(0), replica(1795), primary(3000)], [primary(1805)]], id="between-two-others"
        ),
        pytest.param([[primary(0), replica(1795), primary(1805)]], id="all-at-once"),
    ],
)
def test_a_gap_that_pairing_makes_too_wide_is_told(delivery):
    """A lone replica's point moves to its primary's time, and the gap beside it is wide now."""
    store = MemoryStore(RULES)
    for batch in delivery:
        store.take(batch)
    assert len(store.told_gaps) == 1
    assert store.told_gaps == oracle.wide_gaps(store.received, RULES)


# Settings that change under a stored series


def in_any_order(observations):
    return sorted(observations, key=lambda seen: (seen.at, seen.source, seen.price))


def with_tolerance(seconds):
    return CleaningRules(pairing_tolerance=timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("stored", "was", "arrival", "now"),
    [
        pytest.param([primary(0), replica(20)], 5, primary(70), 30, id="wider-and-an-append"),
        pytest.param(
            [primary(0), replica(20), primary(200)], 5, replica(70), 30, id="wider-and-after-it"
        ),
        pytest.param([primary(0), replica(20)], 5, primary(-50), 30, id="wider-and-before-it"),
        pytest.param([primary(0), replica(29)], 30, replica(29, "1"), 5, id="narrower-corrected"),
        pytest.param([primary(0), replica(29)], 30, replica(33), 5, id="narrower-and-a-late-point"),
        pytest.param([primary(0), replica(29)], 30, primary(29), 5, id="narrower-and-a-new-half"),
    ],
)
def test_a_change_of_the_tolerance_keeps_every_observation_once(stored, was, arrival, now):
    store = MemoryStore(with_tolerance(was))
    store.take(stored)
    store.rules = with_tolerance(now)
    store.take([arrival])
    assert in_any_order(store.observations) == in_any_order(oracle.last_received(store.received))


@settings(max_examples=100, phases=(Phase.reuse, Phase.generate))
@given(some.deliveries(some.dense_sets), st.data())
def test_any_changes_of_the_tolerance_keep_every_observation_once(delivery, data):
    """Rows of the old tolerance may stay as they are; their observations must."""
    store = MemoryStore(RULES)
    for batch in delivery:
        store.rules = with_tolerance(data.draw(st.sampled_from([0, 15, 30, 60])))
        store.take(batch)
        received = oracle.last_received(store.received)
        assert in_any_order(store.observations) == in_any_order(received)


@settings(max_examples=50)
@given(mixed_deliveries, st.data())
def test_a_change_of_the_gap_settings_keeps_every_observation_and_pair(delivery, data):
    store = MemoryStore(RULES)
    for batch in delivery:
        threshold, widest = data.draw(st.tuples(*[st.sampled_from([0, 300, 600, 1800, 4000])] * 2))
        store.rules = CleaningRules(
            gap_detection_threshold=timedelta(seconds=threshold),
            interpolation_max_gap=timedelta(seconds=widest),
        )
        store.take(batch)
        real = [row for row in store.series if row.is_real]
        assert real == oracle.real_points(store.received, RULES)
