"""Merge arrivals into a stored series and report the gaps that are too wide to fill.

`append` and `merge` give the rows of `clean_series` while reading only a part of the series.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from sef.prices.series import (
    CleaningRules,
    Observation,
    ObservationKey,
    Point,
    fill,
    points,
    with_fills,
)

NO_TIME = timedelta(0)


@dataclass(frozen=True, slots=True)
class SeriesBounds:
    """The ends of a stored series. An append needs nothing else of the series.

    `latest_observed_at` is later than `latest_at` if the replica observed the last pair later than
    the primary.

    `widest_fill` is the width of the widest gap that was ever filled. It depends on the rules of
    the past too, so it does not count when two bounds are compared.
    """

    first_at: datetime
    latest_at: datetime
    latest_price: Decimal
    latest_observed_at: datetime
    widest_fill: timedelta = field(default=NO_TIME, compare=False)


@dataclass(frozen=True, slots=True)
class Gap:
    """A span without real points that is too wide to fill."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class SeriesChange:
    """The rows to write so that a series is clean again."""

    upserts: tuple[Point, ...]
    deletes: tuple[datetime, ...]
    bounds: SeriesBounds
    points: tuple[Point, ...]
    """The real points of the window after the change; each arrival is in one of them."""


@dataclass(frozen=True, slots=True)
class MergeWindow:
    """Arrivals that can affect the same rows, and the time span of these rows."""

    arrivals: tuple[Observation, ...]
    start: datetime
    end: datetime


def can_append(
    bounds: SeriesBounds | None, arrivals: Sequence[Observation], rules: CleaningRules
) -> bool:
    """Return True if the arrivals are too far after every stored observation to pair with it."""
    return bounds is None or all(
        arrival.at > bounds.latest_observed_at + rules.pairing_tolerance for arrival in arrivals
    )


def append(
    bounds: SeriesBounds | None, arrivals: Sequence[Observation], rules: CleaningRules
) -> SeriesChange:
    """Add arrivals for which `can_append` is true, without the stored points."""
    real = points(arrivals, rules)
    rows = with_fills(real, rules)
    if bounds is not None:
        first = real[0]
        rows = fill(bounds.latest_at, bounds.latest_price, first.at, first.price, rules) + rows
    times = [*([bounds.latest_at] if bounds else []), *(point.at for point in real)]
    new_bounds = _new_bounds(bounds, (), real, arrivals, _widest_fill(times, rules))
    return SeriesChange(tuple(rows), (), new_bounds, tuple(real))


def merge_windows(
    arrivals: Iterable[Observation], rules: CleaningRules, bounds: SeriesBounds | None = None
) -> list[MergeWindow]:
    """Split arrivals into windows that do not affect each other, in order of time.

    Arrivals at the same time keep their order, so a correction stays after the price it corrects.

    Args:
        arrivals: observations to merge.
        rules: thresholds.
        bounds: of the series; a window is wide enough for the widest gap that was ever filled in
            it, so that no fill stays that the rules no longer make.
    """
    reach = _reach(rules, bounds)
    groups: list[list[Observation]] = []
    for arrival in sorted(arrivals, key=lambda observation: observation.at):
        if groups and arrival.at - groups[-1][-1].at <= 2 * reach:
            groups[-1].append(arrival)
        else:
            groups.append([arrival])
    return [
        MergeWindow(tuple(group), group[0].at - reach, group[-1].at + reach) for group in groups
    ]


def merge(
    bounds: SeriesBounds | None,
    stored: Sequence[Point],
    arrivals: Sequence[Observation],
    rules: CleaningRules,
) -> SeriesChange:
    """Merge the arrivals of one window into the stored rows of the window, in order of time."""
    old = [point for point in stored if point.is_real]
    stored_observations = (observation for point in old for observation in point.observations())
    new = points([*stored_observations, *arrivals], rules)
    replaced = _replaced_observations(old, new, arrivals, rules)
    # At the edges of the window the other half of a pair may not have been read, so a point that
    # no arrival affects stays as stored.
    real = [point for point in old if not point.observation_keys() & replaced]
    real += [point for point in new if point.observation_keys() & replaced]
    real.sort(key=lambda point: point.at)

    first, last = _replaced_span(bounds, old, real, arrivals, rules)
    before = {point.at: point for point in stored if first <= point.at <= last}
    after = {point.at: point for point in with_fills(real, rules)}
    return SeriesChange(
        upserts=tuple(point for at, point in after.items() if before.get(at) != point),
        deletes=tuple(at for at in before if at not in after),
        bounds=_new_bounds(
            bounds, old, real, arrivals, _widest_fill([point.at for point in real], rules)
        ),
        points=tuple(real),
    )


def new_wide_gaps(
    bounds: SeriesBounds | None,
    before: Iterable[datetime],
    after: Iterable[datetime],
    rules: CleaningRules,
) -> list[Gap]:
    """Return the gaps too wide to fill that a change opens.

    A change opens a gap at an end of the series or by moving a point. Each gap is reported once. A
    late point inside a wide gap only narrows the gap, and is not reported. If a lone
    replica's point moves to the time of its primary, the gap beside the point can become too wide,
    and is reported.

    Args:
        bounds: ends of the series before the change.
        before: times of the real points that were read.
        after: times of the real points in the same windows after the change.
        rules: thresholds.
    """
    old_times, new_times = set(before), set(after)
    if bounds is not None:
        ends = {bounds.first_at, bounds.latest_at}
        new_times |= ends - old_times  # an end outside the windows has not changed
        old_times |= ends
    opened = _wide_gaps(new_times, rules)
    if not opened:
        return []
    known = _wide_gaps(old_times, rules)
    starts = [gap.start for gap in known]
    return [gap for gap in opened if not _is_within(gap, known, starts, rules.pairing_tolerance)]


def _replaced_observations(
    old: Sequence[Point],
    new: Sequence[Point],
    arrivals: Sequence[Observation],
    rules: CleaningRules,
) -> set[ObservationKey]:
    """Return the observations whose points have to be replaced.

    These are the observations within two tolerances of an arrival and their old and new partners.
    A partner can be farther away if the tolerance was larger when the pair was stored.
    """
    times = sorted(arrival.at for arrival in arrivals)
    distance = 2 * rules.pairing_tolerance
    together: dict[ObservationKey, list[frozenset[ObservationKey]]] = {}
    for point in (*old, *new):
        for key in point.observation_keys():
            together.setdefault(key, []).append(point.observation_keys())
    replaced = {
        (source, at)
        for source, at in together
        if bisect_right(times, at + distance) > bisect_left(times, at - distance)
    }
    to_follow = list(replaced)
    while to_follow:
        partners = frozenset().union(*together[to_follow.pop()]) - replaced
        replaced |= partners
        to_follow += partners
    return replaced


def _replaced_span(
    bounds: SeriesBounds | None,
    old: Sequence[Point],
    real: Sequence[Point],
    arrivals: Sequence[Observation],
    rules: CleaningRules,
) -> tuple[datetime, datetime]:
    """Return the times of the first and the last row of a window that a merge may replace.

    A fill outside the outermost real points depends on a point that was not read, so it stays.
    If that point is farther away than the widest gap that is filled, the rules no longer make the
    fill, so it is replaced.

    Args:
        bounds: ends of the series before the merge.
        old: real points that were read.
        real: real points after the merge.
        arrivals: observations of the window, in order of time.
        rules: thresholds.
    """
    ends = [point.at for point in (*old[:1], *old[-1:], real[0], real[-1])]
    first, last = min(ends), max(ends)
    reach = _reach(rules, bounds)
    start, end = arrivals[0].at - reach, arrivals[-1].at + reach
    if real[0].at - start >= rules.interpolation_max_gap:
        first = min(first, start)
    if end - real[-1].at >= rules.interpolation_max_gap:
        last = max(last, end)
    return first, last


def _reach(rules: CleaningRules, bounds: SeriesBounds | None) -> timedelta:
    return rules.reach_over(bounds.widest_fill if bounds else NO_TIME)


def _widest_fill(times: Sequence[datetime], rules: CleaningRules) -> timedelta:
    """Return the width of the widest gap between the times that the rules fill; 0 without any."""
    widths = (after - before for before, after in pairwise(times))
    return max((width for width in widths if rules.fills(width)), default=NO_TIME)


def _new_bounds(
    bounds: SeriesBounds | None,
    old: Sequence[Point],
    real: Sequence[Point],
    arrivals: Sequence[Observation],
    widest_fill: timedelta,
) -> SeriesBounds:
    first, latest = real[0], real[-1]
    observed_at = max(arrival.at for arrival in arrivals)
    if bounds is None:
        return SeriesBounds(first.at, latest.at, latest.price, observed_at, widest_fill)
    first_at, latest_at, latest_price = bounds.first_at, bounds.latest_at, bounds.latest_price
    # An end moves inwards if a lone replica's point becomes a pair at the time of its primary.
    if first.at < first_at or (old and old[0].at == first_at):
        first_at = first.at
    if latest.at > latest_at or (old and old[-1].at == latest_at):
        latest_at, latest_price = latest.at, latest.price
    latest_observed_at = max(bounds.latest_observed_at, observed_at)
    widest_fill = max(bounds.widest_fill, widest_fill)
    return SeriesBounds(first_at, latest_at, latest_price, latest_observed_at, widest_fill)


def _is_within(
    gap: Gap, known: Sequence[Gap], starts: Sequence[datetime], tolerance: timedelta
) -> bool:
    """Return True if a known gap contains `gap`, up to the tolerance."""
    # Known gaps do not overlap, so only the last two that start before `gap` can contain it.
    last = bisect_right(starts, gap.start + tolerance) - 1
    return any(gap.end <= old.end + tolerance for old in known[max(last - 1, 0) : last + 1])


def _wide_gaps(times: Iterable[datetime], rules: CleaningRules) -> list[Gap]:
    return [
        Gap(start, end)
        for start, end in pairwise(sorted(times))
        if end - start > rules.interpolation_max_gap
    ]
