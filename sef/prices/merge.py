from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import pairwise

from sef.prices.series import CleaningRules, Instant, Observation, Point, _with_fills, fill, points


@dataclass(frozen=True, slots=True)
class SeriesBounds:
    """The ends of a stored series: all that an in-order append needs to know of it.

    `latest_observed_at` can lie after `latest_at`: the replica's half of the last pair.
    """

    first_at: datetime
    latest_at: datetime
    latest_price: Decimal
    latest_observed_at: datetime


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch without real points that is too wide to fill."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class SeriesChange:
    """What has to be written for a series to be clean again."""

    upserts: tuple[Point, ...]
    deletes: tuple[datetime, ...]
    head: SeriesBounds
    points: tuple[Point, ...]
    """The real points of the neighbourhood after the change: every arrival is held by one."""


def can_append(
    head: SeriesBounds | None, arrivals: Sequence[Observation], rules: CleaningRules
) -> bool:
    """Whether the arrivals lie too far after everything stored to pair with any of it."""
    return head is None or all(
        arrival.at > head.latest_observed_at + rules.pairing_tolerance for arrival in arrivals
    )


def append(
    head: SeriesBounds | None, arrivals: Sequence[Observation], rules: CleaningRules
) -> SeriesChange:
    """Add arrivals for which `can_append` holds; nothing stored needs to be read."""
    real = points(arrivals, rules)
    rows = _with_fills(real, rules)
    if head is not None:
        first = real[0]
        rows = fill(head.latest_at, head.latest_price, first.at, first.price, rules) + rows
    return SeriesChange(tuple(rows), (), _new_head(head, (), real, arrivals), tuple(real))


@dataclass(frozen=True, slots=True)
class MergeWindow:
    """Arrivals that can touch the same rows, and the span of time in which those rows lie."""

    arrivals: tuple[Observation, ...]
    start: datetime
    end: datetime


def merge_windows(arrivals: Iterable[Observation], rules: CleaningRules) -> list[MergeWindow]:
    """Split arrivals into groups that do not affect one another, in order of time.

    Arrivals at one instant keep their order, so that a correction stays behind what it corrects.
    """
    groups: list[list[Observation]] = []
    for arrival in sorted(arrivals, key=lambda observation: observation.at):
        if groups and arrival.at - groups[-1][-1].at <= 2 * rules.reach:
            groups[-1].append(arrival)
        else:
            groups.append([arrival])
    return [
        MergeWindow(tuple(group), group[0].at - rules.reach, group[-1].at + rules.reach)
        for group in groups
    ]


def merge(
    head: SeriesBounds | None,
    stored: Sequence[Point],
    arrivals: Sequence[Observation],
    rules: CleaningRules,
) -> SeriesChange:
    """Merge the arrivals of one neighbourhood into its stored rows, given in order of time."""
    was = [point for point in stored if point.is_real]
    made = points([*(seen for point in was for seen in point.observations()), *arrivals], rules)
    replaced = _replaced(was, made, arrivals, rules)
    # At the edges of what was read a partner may be missing: there the stored point is right.
    real = [point for point in was if not point.instants() & replaced]
    real += [point for point in made if point.instants() & replaced]
    real.sort(key=lambda point: point.at)

    # Fills outside the outermost real points hang on rows that were not read.
    ends = [point.at for point in (*was[:1], *was[-1:], real[0], real[-1])]
    before = {point.at: point for point in stored if min(ends) <= point.at <= max(ends)}
    after = {point.at: point for point in _with_fills(real, rules)}
    return SeriesChange(
        upserts=tuple(point for at, point in after.items() if before.get(at) != point),
        deletes=tuple(at for at in before if at not in after),
        head=_new_head(head, was, real, arrivals),
        points=tuple(real),
    )


def _replaced(
    was: Sequence[Point],
    made: Sequence[Point],
    arrivals: Sequence[Observation],
    rules: CleaningRules,
) -> set[Instant]:
    """The observations whose points are to be made anew.

    Those are all within two tolerances of an arrival, with their old and their new partners: a
    partner can lie farther away when the tolerance was another one before.
    """
    times = sorted(arrival.at for arrival in arrivals)
    around = 2 * rules.pairing_tolerance
    together: dict[Instant, list[frozenset[Instant]]] = {}
    for point in (*was, *made):
        for instant in point.instants():
            together.setdefault(instant, []).append(point.instants())
    reached = {
        instant
        for instant in together
        if bisect_right(times, instant[1] + around) > bisect_left(times, instant[1] - around)
    }
    to_follow = list(reached)
    while to_follow:
        partners = frozenset().union(*together[to_follow.pop()]) - reached
        reached |= partners
        to_follow += partners
    return reached


def _new_head(
    head: SeriesBounds | None,
    was: Sequence[Point],
    real: Sequence[Point],
    arrivals: Sequence[Observation],
) -> SeriesBounds:
    first, latest = real[0], real[-1]
    observed = max(arrival.at for arrival in arrivals)
    if head is None:
        return SeriesBounds(first.at, latest.at, latest.price, observed)
    first_at, latest_at, latest_price = head.first_at, head.latest_at, head.latest_price
    # An end moves inwards when a lone replica's point becomes a pair at its primary's time.
    if first.at < first_at or (was and was[0].at == first_at):
        first_at = first.at
    if latest.at > latest_at or (was and was[-1].at == latest_at):
        latest_at, latest_price = latest.at, latest.price
    return SeriesBounds(first_at, latest_at, latest_price, max(head.latest_observed_at, observed))


def new_wide_gaps(
    head: SeriesBounds | None,
    was: Iterable[datetime],
    now: Iterable[datetime],
    rules: CleaningRules,
) -> list[Gap]:
    """The unfillable gaps that a change opens: at the ends of a series, or by moving a point.

    A gap is told once. A late point inside a wide gap only narrows it, which is not told; a lone
    replica's point that moves to its primary's time can make the gap beside it too wide, which is.

    Args:
        head: the ends of the series before the change.
        was: the times of the real points that were read, before the change.
        now: those of the same stretches after it, with the new ones.
    """
    before, after = set(was), set(now)
    if head is not None:
        ends = {head.first_at, head.latest_at}
        after |= ends - before  # what was not read has not changed
        before |= ends
    opened = _wide_gaps(after, rules)
    if not opened:
        return []
    known = _wide_gaps(before, rules)
    starts = [gap.start for gap in known]

    def is_known(gap: Gap) -> bool:
        # Gaps do not overlap: only the last to begin before this one can hold it.
        last = bisect_right(starts, gap.start + rules.pairing_tolerance) - 1
        return any(
            gap.end <= old.end + rules.pairing_tolerance
            for old in known[max(last - 1, 0) : last + 1]
        )

    return [gap for gap in opened if not is_known(gap)]


def _wide_gaps(times: Iterable[datetime], rules: CleaningRules) -> list[Gap]:
    return [
        Gap(start, end)
        for start, end in pairwise(sorted(times))
        if end - start > rules.interpolation_max_gap
    ]
