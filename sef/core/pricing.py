"""Clean price series: pairing, divergence, gap fill, and merging arrivals into what is stored.

A series is one (agent, pool). Its rows are a function of the set of observations alone, so any
arrival order, repetition or split over workers ends in the same rows (`clean_series`). The
other two ways in, `append` and `merge`, reach those rows by touching only a neighbourhood.

Times are aware datetimes in UTC with microseconds; prices are US dollars per hour.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from itertools import pairwise

PRICE_STEP = Decimal("0.00000001")
"""What a report's price is rounded to."""

STORED_STEP = Decimal("0.000000001")
"""What a stored price is rounded to: one digit more, so that the mean of two prices is exact."""

MICROSECOND = timedelta(microseconds=1)


class Source(StrEnum):
    PRIMARY = "primary"
    REPLICA = "replica"


class Flag(StrEnum):
    NORMAL = "normal"
    AVERAGED = "averaged_dual_source"
    DIVERGENT = "divergent_dual_source"
    INTERPOLATED = "interpolated"


class Interpolation(StrEnum):
    LINEAR = "linear"
    PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class Rules:
    """The thresholds of a clean series. All spans are closed at the end that the name suggests:
    a gap of exactly `interpolation_max_gap` is filled, one of `gap_detection_threshold` is not."""

    pairing_tolerance: timedelta = timedelta(seconds=30)
    divergence_limit: Decimal = Decimal("0.05")
    gap_detection_threshold: timedelta = timedelta(seconds=600)
    interpolation_max_gap: timedelta = timedelta(seconds=1800)
    interpolation_step: timedelta = timedelta(seconds=300)
    interpolation_method: Interpolation = Interpolation.LINEAR

    @property
    def reach(self) -> timedelta:
        """How far from an arrival a row can matter: a fillable gap, and the pairings at its end.

        An arrival changes pairings within 2 tolerances of itself. Judging those takes the
        observations within 4, which lie in rows within 5, a pair being stored at its primary.
        """
        return self.interpolation_max_gap + 5 * self.pairing_tolerance


Instant = tuple[Source, datetime]
"""What identifies an observation within its series."""


@dataclass(frozen=True, slots=True)
class Observation:
    source: Source
    at: datetime
    price: Decimal


@dataclass(frozen=True, slots=True)
class Point:
    """One row of a clean series.

    A real point carries the one or two observations that it was made of; an interpolated one
    carries none.
    """

    at: datetime
    price: Decimal
    flag: Flag
    primary: Decimal | None = None
    replica: Decimal | None = None
    replica_at: datetime | None = None

    @property
    def is_real(self) -> bool:
        return self.flag is not Flag.INTERPOLATED

    def observations(self) -> Iterable[Observation]:
        if self.primary is not None:
            yield Observation(Source.PRIMARY, self.at, self.primary)
        if self.replica is not None and self.replica_at is not None:
            yield Observation(Source.REPLICA, self.replica_at, self.replica)

    def instants(self) -> frozenset[Instant]:
        return frozenset((seen.source, seen.at) for seen in self.observations())


@dataclass(frozen=True, slots=True)
class Head:
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
class Change:
    """What has to be written for a series to be clean again."""

    upserts: tuple[Point, ...]
    deletes: tuple[datetime, ...]
    head: Head
    points: tuple[Point, ...]
    """The real points of the neighbourhood after the change: every arrival is held by one."""


def pairs(
    observations: Iterable[Observation], tolerance: timedelta
) -> list[tuple[Observation | None, Observation | None]]:
    """Every observation once, as (primary, replica), (primary, None) or (None, replica).

    Two are a pair when each is the other's nearest from the opposite source and they are at most
    `tolerance` apart; of two equally near, the earlier is the nearest.
    """
    by_source: dict[Source, list[Observation]] = {Source.PRIMARY: [], Source.REPLICA: []}
    for observation in observations:
        by_source[observation.source].append(observation)
    for side in by_source.values():
        side.sort(key=lambda observation: observation.at)
    primaries, replicas = by_source[Source.PRIMARY], by_source[Source.REPLICA]
    primary_times = [observation.at for observation in primaries]
    replica_times = [observation.at for observation in replicas]

    paired: set[int] = set()
    result: list[tuple[Observation | None, Observation | None]] = []
    for index, primary in enumerate(primaries):
        nearest = _nearest(replica_times, primary.at)
        if (
            nearest is not None
            and abs(replica_times[nearest] - primary.at) <= tolerance
            and _nearest(primary_times, replica_times[nearest]) == index
        ):
            paired.add(nearest)
            result.append((primary, replicas[nearest]))
        else:
            result.append((primary, None))
    result.extend((None, replica) for i, replica in enumerate(replicas) if i not in paired)
    return result


def _nearest(times: Sequence[datetime], at: datetime) -> int | None:
    after = bisect_left(times, at)
    if after == len(times):
        return after - 1 if times else None
    if after == 0 or times[after] - at < at - times[after - 1]:
        return after
    return after - 1


def points(observations: Iterable[Observation], rules: Rules) -> list[Point]:
    """The real points that a set of observations makes, in order of time.

    Of several observations by one source at one instant, the last one given stands.
    """
    unique = {(observation.source, observation.at): observation for observation in observations}
    made = [
        _point(primary, replica, rules)
        for primary, replica in pairs(unique.values(), rules.pairing_tolerance)
    ]
    return sorted(made, key=lambda point: point.at)


def _point(primary: Observation | None, replica: Observation | None, rules: Rules) -> Point:
    if primary is None:
        assert replica is not None
        return Point(
            replica.at, replica.price, Flag.NORMAL, replica=replica.price, replica_at=replica.at
        )
    if replica is None:
        return Point(primary.at, primary.price, Flag.NORMAL, primary=primary.price)
    mean = (primary.price + replica.price) / 2
    diverges = abs(primary.price - replica.price) > rules.divergence_limit * mean
    return Point(
        primary.at,
        primary.price if diverges else mean,
        Flag.DIVERGENT if diverges else Flag.AVERAGED,
        primary=primary.price,
        replica=replica.price,
        replica_at=replica.at,
    )


def fill(
    start: datetime, start_price: Decimal, end: datetime, end_price: Decimal, rules: Rules
) -> list[Point]:
    """The interpolated points between two neighbouring real points, ends excluded."""
    width = end - start
    if not rules.gap_detection_threshold < width <= rules.interpolation_max_gap:
        return []
    filled = []
    at = start + rules.interpolation_step
    while at < end:
        price = start_price
        if rules.interpolation_method is Interpolation.LINEAR:
            run, whole = (at - start) // MICROSECOND, width // MICROSECOND
            price = (start_price + (end_price - start_price) * run / whole).quantize(
                STORED_STEP, ROUND_HALF_EVEN
            )
        filled.append(Point(at, price, Flag.INTERPOLATED))
        at += rules.interpolation_step
    return filled


def _with_fills(real: Sequence[Point], rules: Rules) -> list[Point]:
    rows = list(real[:1])
    for before, after in pairwise(real):
        rows += fill(before.at, before.price, after.at, after.price, rules)
        rows.append(after)
    return rows


def clean_series(observations: Iterable[Observation], rules: Rules) -> list[Point]:
    """The whole series that a set of observations makes: the definition of a clean series."""
    return _with_fills(points(observations, rules), rules)


def can_append(head: Head | None, arrivals: Sequence[Observation], rules: Rules) -> bool:
    """Whether the arrivals lie too far after everything stored to pair with any of it."""
    return head is None or all(
        arrival.at > head.latest_observed_at + rules.pairing_tolerance for arrival in arrivals
    )


def append(head: Head | None, arrivals: Sequence[Observation], rules: Rules) -> Change:
    """Add arrivals for which `can_append` holds; nothing stored needs to be read."""
    real = points(arrivals, rules)
    rows = _with_fills(real, rules)
    if head is not None:
        first = real[0]
        rows = fill(head.latest_at, head.latest_price, first.at, first.price, rules) + rows
    return Change(tuple(rows), (), _new_head(head, (), real, arrivals), tuple(real))


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Arrivals that can touch the same rows, and the span of time in which those rows lie."""

    arrivals: tuple[Observation, ...]
    start: datetime
    end: datetime


def neighbourhoods(arrivals: Iterable[Observation], rules: Rules) -> list[Neighbourhood]:
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
        Neighbourhood(tuple(group), group[0].at - rules.reach, group[-1].at + rules.reach)
        for group in groups
    ]


def merge(
    head: Head | None, stored: Sequence[Point], arrivals: Sequence[Observation], rules: Rules
) -> Change:
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
    return Change(
        upserts=tuple(point for at, point in after.items() if before.get(at) != point),
        deletes=tuple(at for at in before if at not in after),
        head=_new_head(head, was, real, arrivals),
        points=tuple(real),
    )


def _replaced(
    was: Sequence[Point], made: Sequence[Point], arrivals: Sequence[Observation], rules: Rules
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
    head: Head | None, was: Sequence[Point], real: Sequence[Point], arrivals: Sequence[Observation]
) -> Head:
    first, latest = real[0], real[-1]
    observed = max(arrival.at for arrival in arrivals)
    if head is None:
        return Head(first.at, latest.at, latest.price, observed)
    first_at, latest_at, latest_price = head.first_at, head.latest_at, head.latest_price
    # An end moves inwards when a lone replica's point becomes a pair at its primary's time.
    if first.at < first_at or (was and was[0].at == first_at):
        first_at = first.at
    if latest.at > latest_at or (was and was[-1].at == latest_at):
        latest_at, latest_price = latest.at, latest.price
    return Head(first_at, latest_at, latest_price, max(head.latest_observed_at, observed))


def new_wide_gaps(
    head: Head | None, was: Iterable[datetime], now: Iterable[datetime], rules: Rules
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


def _wide_gaps(times: Iterable[datetime], rules: Rules) -> list[Gap]:
    return [
        Gap(start, end)
        for start, end in pairwise(sorted(times))
        if end - start > rules.interpolation_max_gap
    ]
