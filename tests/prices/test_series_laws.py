"""Laws of a stored series for every order of arrival: it equals the clean series.

The store is a dict that reads only the windows of `windows_to_read` and writes only the rows of
`plan_update`. After every step its rows, bounds and buffer are compared with the oracle.
"""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sef.prices.ingest import windows_to_read
from sef.prices.merge import SeriesBounds
from sef.prices.series import CleaningRules, clean_series
from sef.terms import Flag, Interpolation
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


def check_outcomes(store, batch, update, received_before):
    """Assert that the result of each arrival has its point and detects repeats."""
    last = {(seen.source, seen.at): seen for seen in received_before}
    assert len(update.outcomes) == len(batch)
    for arrival, outcome in zip(batch, update.outcomes, strict=True):
        assert outcome.is_repeat == (last.get((arrival.source, arrival.at)) == arrival)
        last[arrival.source, arrival.at] = arrival
        if outcome.point is None:
            assert (arrival.source, arrival.at) in store.buffer
        else:
            assert holds(outcome.point, arrival)
            assert store.rows[outcome.point.at] == outcome.point
    assert update.waiting_count == len(store.buffer)
    assert update.interpolated == sum(point.flag is Flag.INTERPOLATED for point in update.upserts)


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
    update = store.take([primary(0, "0.0456")], replica_expected=True)
    assert (update.waiting_count, update.outcomes[0].point, store.rows) == (1, None, {})
    update = store.take([replica(0, "0.0458")], replica_expected=True)
    assert (update.waiting_count, update.released) == (0, (primary(0, "0.0456"),))
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
def test_any_order_repetition_and_split_gives_the_same_rows(delivery, rules):
    store = MemoryStore(rules)
    for batch in delivery:
        before = list(store.received)
        check_outcomes(store, batch, store.take(batch), before)
        store.check()
    assert store.series == clean_series(store.received, rules)


@settings(max_examples=150)
@given(mixed_deliveries, some.rules)
def test_one_batch_gives_the_same_rows_as_many(delivery, rules):
    everything = [seen for batch in delivery for seen in batch]
    store = MemoryStore(rules)
    check_outcomes(store, everything, store.take(everything), [])
    store.check()


@settings(max_examples=150)
@given(some.deliveries_with_corrections(), some.rules)
def test_a_correction_counts_in_any_order_of_the_other_reports(delivery, rules):
    store = MemoryStore(rules)
    for batch in delivery:
        before = list(store.received)
        check_outcomes(store, batch, store.take(batch), before)
        store.check()


@settings(max_examples=100)
@given(mixed_deliveries, some.rules)
def test_repeated_reports_write_nothing(delivery, rules):
    store = MemoryStore(rules)
    for batch in delivery:
        store.take(batch)
    for batch in reversed(delivery):
        update = store.take(batch)
        assert (update.upserts, update.deletes, update.buffered, update.released) == (
            (),
            (),
            (),
            (),
        )
        assert update.wide_gaps == ()
        assert all(outcome.is_repeat and outcome.point for outcome in update.outcomes)
    store.check()


@settings(max_examples=150)
@given(
    some.deliveries_with_corrections(),
    st.lists(st.integers(0, 1), min_size=60, max_size=60),
    st.lists(st.booleans(), min_size=60, max_size=60),
    some.rules,
)
def test_two_workers_with_version_conflicts_give_the_clean_series(delivery, turns, expected, rules):
    """A worker reads, and writes at a later turn; after a version conflict it reads again."""
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
        update = store.plan(snapshot, batch, replica_expected=replica_expected)
        if store.commit(snapshot, batch, update):
            check_outcomes(store, queues[worker].pop(0), update, before)
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
            id="a-point-read-without-its-neighbour-stays",
        ),
    ],
)
def test_a_pairing_can_depend_on_a_chain_of_other_pairings(stored, arrival):
    """Without gaps to fill, the width of the window depends on the pairings only."""
    store = MemoryStore(CleaningRules(interpolation_max_gap=timedelta(0)))
    store.take(stored)
    store.take([arrival])
    store.check()


def test_a_fill_whose_end_was_not_read_stays():
    """The arrival at 1 reads the fill at 1900, but not the point at 3300 at the end of the gap."""
    store = MemoryStore(RULES)
    store.take([primary(0), primary(1600), primary(3300)])
    store.take([primary(1)])
    store.check()


def test_one_batch_can_change_several_windows():
    store = MemoryStore(RULES)
    store.take([seen for day in (0, 86400) for seen in (primary(day), primary(day + 1200))])
    update = store.take([primary(day + 1000) for day in (0, 86400)])
    assert update.deletes == ()
    update = store.take([primary(day + 500) for day in (86400, 0)])
    assert set(update.deletes) == {at(300), at(600), at(900), at(86700), at(87000), at(87300)}
    store.check()


SHORT = [
    CleaningRules(interpolation_max_gap=timedelta(seconds=seconds)) for seconds in (0, 30, 601)
]
chains = some.observation_sets(
    14, min_size=6, steps=st.sampled_from([0, 5, 10, 14, 15, 16, 20, 25, 29, 30])
)


@settings(max_examples=250)
@given(chains, st.sampled_from(SHORT), st.data())
def test_the_window_is_wide_enough_for_a_dense_chain_of_pairings(observations, rules, data):
    """With small gaps to fill, the width of the window depends on the pairings only."""
    arrival = data.draw(st.sampled_from(observations))
    store = MemoryStore(rules)
    store.received = [seen for seen in observations if seen != arrival]
    store.rows = {row.at: row for row in oracle.series(store.received, rules)}
    store.bounds = bounds_of(store.received, rules)
    store.take([arrival])
    store.check()


def test_a_large_backfill_between_stored_points_is_merged_at_once():
    """A batch of thousands of reports, each in a window of its own, is a normal use."""
    store = MemoryStore(RULES)
    store.take([primary(8000 * n) for n in range(4001)])
    batch = [primary(8000 * n + 4000) for n in range(4000)]
    stored = store.series
    seen = Snapshot(store.version, store.bounds, (), stored[:-1])  # all rows are in the windows
    update = store.plan(seen, batch)
    assert len(update.upserts) == 4000


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
def test_waiting_does_not_change_the_final_series(delivery, moments, rules):
    """Expected replicas, passing time and clean-ups alternate at random."""
    store = MemoryStore(rules)
    now = T
    for batch, (replica_expected, passes, is_cleaned) in zip(delivery, moments, strict=False):
        now += timedelta(seconds=passes)
        before = list(store.received)
        update = store.take(batch, replica_expected=replica_expected, now=now)
        check_outcomes(store, batch, update, before)
        store.check()
        if not replica_expected:
            assert store.buffer == {}
        if is_cleaned:
            store.take([], replica_expected=replica_expected, now=now)
            assert all(buffered.received_at > now - WINDOW for buffered in store.buffer.values())
            store.check()
    last = store.take([], replica_expected=True, now=now + WINDOW)
    assert (store.buffer, last.waiting_count) == ({}, 0)
    store.check()
    assert store.series == clean_series(store.received, rules)


def test_a_correction_replaces_a_waiting_observation_and_waits():
    store = MemoryStore(RULES)
    store.take([primary(0, "0.04")], replica_expected=True)
    update = store.take([primary(0, "0.05")], replica_expected=True, now=at(1))
    assert (update.buffered, update.released) == ((primary(0, "0.05"),), ())
    assert [outcome.is_repeat for outcome in update.outcomes] == [False]
    store.take([replica(3, "0.05")], replica_expected=True)
    assert shown(store.series) == [(0, "0.05", AVERAGED)]


def test_a_repeat_of_a_waiting_observation_neither_writes_nor_prolongs_the_wait():
    store = MemoryStore(RULES)
    store.take([primary(0)], replica_expected=True, now=T)
    update = store.take([primary(0)], replica_expected=True, now=at(200))
    assert (update.buffered, update.released, update.waiting_count) == ((), (), 1)
    assert [(outcome.point, outcome.is_repeat) for outcome in update.outcomes] == [(None, True)]
    update = store.take([], replica_expected=True, now=at(300))
    assert (update.released, update.waiting_count) == ((primary(0),), 0)


def test_a_repeat_after_the_wait_returns_the_point():
    store = MemoryStore(RULES)
    store.take([primary(0)], replica_expected=True)
    (outcome,) = store.take([primary(0)], replica_expected=False).outcomes
    assert outcome.is_repeat
    assert outcome.point == store.rows[T]


def test_a_price_that_changes_back_is_a_correction_and_not_a_repeat():
    store = MemoryStore(RULES)
    store.take([primary(0, "0.04")])
    update = store.take([primary(0, "0.05"), primary(0, "0.04")])
    assert [outcome.is_repeat for outcome in update.outcomes] == [False, False]
    assert shown(store.series) == [(0, "0.04", NORMAL)]


def test_a_late_half_merges_into_a_point_that_did_not_wait():
    store = MemoryStore(RULES)
    store.take([primary(0, "0.04")], replica_expected=False)
    update = store.take([replica(9, "0.041")], replica_expected=True)
    assert update.waiting_count == 0
    assert shown(store.series) == [(0, "0.0405", AVERAGED)]


def test_an_update_without_arrivals_changes_nothing():
    update = MemoryStore(RULES).take([])
    assert (update.bounds, update.upserts, update.deletes, update.outcomes) == (None, (), (), ())


# The bounds


def test_the_bounds_follow_the_ends_of_the_series():
    store = MemoryStore(RULES)
    store.take([replica(20, "0.04")])
    assert store.bounds == SeriesBounds(at(20), at(20), Decimal("0.04"), at(20))
    store.take([primary(0, "0.041")])
    assert store.bounds == SeriesBounds(at(0), at(0), Decimal("0.0405"), at(20))
    store.take([primary(-900, "0.05")])
    assert store.bounds == SeriesBounds(at(-900), at(0), Decimal("0.0405"), at(20))
    store.take([replica(1, "0.041")])  # nearer: the replica at 20 is alone again
    assert store.bounds == SeriesBounds(at(-900), at(20), Decimal("0.04"), at(20))
    store.take([replica(20, "0.06")])
    assert store.bounds == SeriesBounds(at(-900), at(20), Decimal("0.06"), at(20))
    store.check()


def test_an_append_reads_no_rows_and_a_late_point_only_its_window():
    store = MemoryStore(RULES)
    store.take([primary(3600 * hour) for hour in range(10)])
    assert store.read([primary(3600 * 10)]).stored == []
    assert store.read([primary(3600 * 9 + 31)]).stored == []
    assert [row.at for row in store.read([primary(3600 * 5 + 1)]).stored] == [at(3600 * 5)]
    both = store.read([primary(3600 * 5 + 1), primary(3600 * 2 + 1)]).stored
    assert [row.at for row in both] == [at(3600 * 2), at(3600 * 5)]


# Wide gaps


WIDE_GAPS = {
    "after the latest": ([6801], [(5000, 6801)]),
    "1800 s is not wide": ([6800], []),
    "1800 s and a microsecond is wide": ([6800.000001], [(5000, 6800.000001)]),
    "before the first": ([-1801], [(-1801, 0)]),
    "1800 s before the first": ([-1800], []),
    "inside a reported gap": ([2500], []),
    "beside the first": ([1], []),
    "beside the latest": ([4999], []),
    "several": ([-2000, 2500, 7000, 7100, 9000], [(-2000, 0), (5000, 7000), (7100, 9000)]),
    "repeats": ([0, 5000], []),
}


@pytest.mark.parametrize(
    ("moments", "expected"), WIDE_GAPS.values(), ids=[name.replace(" ", "-") for name in WIDE_GAPS]
)
@pytest.mark.parametrize("order", [1, -1], ids=["in-order", "backwards"])
def test_a_wide_gap_is_reported_when_an_end_of_the_series_moves_over_it(moments, expected, order):
    store = MemoryStore(RULES)
    store.take([primary(0), primary(5000)])
    assert store.reported_gaps == [(at(0), at(5000))]
    reported = store.take([primary(moment) for moment in moments][::order]).wide_gaps
    assert [(gap.start, gap.end) for gap in reported] == [(at(a), at(b)) for a, b in expected]


def test_interpolated_points_do_not_divide_a_wide_gap():
    """A fill ends where the wide gap starts, even if both are written at once."""
    store = MemoryStore(RULES)
    store.take([primary(0)])
    reported = store.take([primary(1800), primary(4000)]).wide_gaps
    assert [(gap.start, gap.end) for gap in reported] == [(at(1800), at(4000))]


far_apart = some.observation_sets(
    10, steps=st.sampled_from([31, 60, 601, 1799, 1800, 1801, 1802, 3700])
)


@settings(max_examples=150)
@given(far_apart.flatmap(some.split))
def test_appends_in_order_report_each_wide_gap_once(delivery):
    store = MemoryStore(RULES)
    for batch in delivery:
        if not all(seen.at > store.bounds.latest_observed_at for seen in batch if store.bounds):
            continue
        assert store.read(batch).stored == []
        store.take(batch)
        assert store.reported_gaps == oracle.wide_gaps(store.received, RULES)


@settings(max_examples=150)
@given(some.observation_sets(8).flatmap(some.split), st.booleans())
def test_primaries_alone_report_each_wide_gap_once_forwards_and_backwards(delivery, backwards):
    delivery = [[primary(some.seconds_of(o.at)) for o in batch] for batch in delivery]
    if backwards:
        delivery = [batch[::-1] for batch in delivery[::-1]]
    store = MemoryStore(RULES)
    for batch in delivery:
        store.take(batch)
    assert sorted(store.reported_gaps) == oracle.wide_gaps(store.received, RULES)


@pytest.mark.parametrize(
    ("delivery", "reported"),
    [
        pytest.param([[primary(0)], [replica(1810)], [primary(1830)]], (0, 1810), id="on"),
        pytest.param([[primary(0)], [replica(1830)], [primary(1810)]], (0, 1830), id="back"),
        pytest.param(
            [[replica(20), primary(3000)], [primary(0)]], (20, 3000), id="the-start-moves-back"
        ),
    ],
)
def test_a_wide_gap_is_reported_once_although_a_point_at_its_end_moves(delivery, reported):
    store = MemoryStore(RULES)
    for batch in delivery:
        store.take(batch)
    assert store.reported_gaps == [(at(reported[0]), at(reported[1]))]


@settings(max_examples=100)
@given(some.observation_sets(10), st.data())
def test_late_points_inside_a_wide_gap_report_no_gap(observations, data):
    """All observations are of one source, so none of them moves a point."""
    late = [primary(some.seconds_of(seen.at)) for seen in observations]
    store = MemoryStore(RULES)
    store.take([primary(-2000), primary(some.seconds_of(late[-1].at) + 2000)])
    reported = list(store.reported_gaps)
    for batch in data.draw(some.batches(late)):
        assert store.take(batch).wide_gaps == ()
    assert len(reported) == 1


@settings(max_examples=150)
@given(st.one_of(some.deliveries(), some.deliveries_with_corrections()))
def test_exactly_the_new_wide_gaps_are_reported(delivery):
    """Rule 5, step by step: each gap that is wide now and was not wide before is reported.

    A gap stays the same one if a point at its end has moved by up to a tolerance, to the time of
    its primary or back.
    """
    store = MemoryStore(RULES)
    for batch in delivery:
        before = oracle.wide_gaps(store.received, RULES)
        reported = [(gap.start, gap.end) for gap in store.take(batch).wide_gaps]
        assert reported == [
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
def test_a_gap_that_pairing_makes_too_wide_is_reported(delivery):
    """A lone replica's point moves to its primary's time, which makes the gap beside it wide."""
    store = MemoryStore(RULES)
    for batch in delivery:
        store.take(batch)
    assert len(store.reported_gaps) == 1
    assert store.reported_gaps == oracle.wide_gaps(store.received, RULES)


# Settings that change under a stored series


def in_any_order(observations):
    return sorted(observations, key=lambda seen: (seen.at, seen.source, seen.price))


def with_tolerance(seconds):
    return CleaningRules(pairing_tolerance=timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("stored", "before", "arrival", "now"),
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
def test_a_change_of_the_tolerance_keeps_every_observation_once(stored, before, arrival, now):
    store = MemoryStore(with_tolerance(before))
    store.take(stored)
    store.rules = with_tolerance(now)
    store.take([arrival])
    assert in_any_order(store.observations) == in_any_order(oracle.last_received(store.received))


@settings(max_examples=100, phases=(Phase.reuse, Phase.generate))
@given(some.deliveries(some.dense_sets), st.data())
def test_any_changes_of_the_tolerance_keep_every_observation_once(delivery, data):
    """Rows of the old tolerance may stay or change, but no observation may be lost."""
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


gap_rules = st.builds(
    CleaningRules,
    gap_detection_threshold=st.sampled_from([timedelta(seconds=s) for s in (0, 300, 600, 4000)]),
    interpolation_max_gap=st.sampled_from(
        [timedelta(seconds=s) for s in (0, 601, 1800, 4000, 14_400)]
    ),
    interpolation_step=st.sampled_from([timedelta(seconds=s) for s in (100, 300, 3000)]),
    interpolation_method=st.sampled_from(Interpolation),
)


@settings(max_examples=150)
@given(mixed_deliveries, st.data())
def test_gaps_beside_a_written_point_are_filled_by_the_present_rules(delivery, data):
    store = MemoryStore(RULES)
    for batch in delivery:
        store.rules = data.draw(gap_rules)
        update = store.take(batch)
        written = {point.at for point in update.upserts if point.is_real}
        rows = store.series
        for before, after in pairwise([row for row in rows if row.is_real]):
            if written & {before.at, after.at}:
                between = [row for row in rows if before.at < row.at < after.at]
                assert between == oracle.filled(before, after, store.rules)


@settings(max_examples=100)
@given(mixed_deliveries, st.data())
def test_a_series_whose_points_were_all_written_again_is_made_by_the_present_rules(delivery, data):
    store = MemoryStore(RULES)
    for batch in delivery:
        store.rules = data.draw(gap_rules)
        store.take(batch)
    for seen in oracle.last_received(store.received):
        store.take([replace(seen, price=seen.price + 1)])
        store.take([seen])
    store.check()


@pytest.mark.parametrize("moment", [1, 500, 7200, 9001, 14_399, 0, 14_400], ids="at-{}".format)
def test_no_fill_of_a_wider_gap_stays_beside_a_late_point(moment):
    """After a restart with a smaller `interpolation_max_gap`, a late point divides the old gap."""
    store = MemoryStore(CleaningRules(interpolation_max_gap=timedelta(seconds=14_400)))
    store.take([primary(0), primary(14_400, "0.09")])
    store.rules = RULES
    store.take([primary(moment, "0.5")])
    store.check()


def test_a_merge_reads_no_further_than_the_widest_gap_that_was_filled():
    """A large `interpolation_max_gap` alone, without a gap that it filled, widens no window."""
    store = MemoryStore(CleaningRules(interpolation_max_gap=timedelta(days=365)))
    store.take([primary(0), primary(900), primary(1200), primary(1500)])
    store.rules = RULES
    [window] = windows_to_read(store.bounds, (), [primary(1000)], RULES)
    assert window.end - window.start == 2 * RULES.reach
