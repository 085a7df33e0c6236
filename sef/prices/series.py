"""Define a clean price series: pairing, divergence and gap filling.

A series belongs to one agent and one pool. Its rows depend on the set of observations only
(`clean_series`), so every order of arrival, repetition or split over workers gives the same rows.
`append` and `merge` in `merge.py` produce the same rows while reading only a part of the series.

Times are aware datetimes in UTC with microseconds. Prices are US dollars per hour.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import pairwise

from sef.terms import STORED_STEP, Flag, Interpolation, Source

MICROSECOND = timedelta(microseconds=1)

SeriesKey = tuple[str, str]
"""The agent id and the pool id of a series."""

ObservationKey = tuple[Source, datetime]
"""The source and the time that identify an observation within its series."""


@dataclass(frozen=True, slots=True)
class CleaningRules:
    """The thresholds of a clean series.

    A gap of exactly `interpolation_max_gap` is filled. A distance of exactly
    `gap_detection_threshold` is not a gap.
    """

    pairing_tolerance: timedelta = timedelta(seconds=30)
    divergence_limit: Decimal = Decimal("0.05")
    gap_detection_threshold: timedelta = timedelta(seconds=600)
    interpolation_max_gap: timedelta = timedelta(seconds=1800)
    interpolation_step: timedelta = timedelta(seconds=300)
    interpolation_method: Interpolation = Interpolation.LINEAR

    @property
    def reach(self) -> timedelta:
        """The maximum distance from an arrival to a row that it can affect or that it depends on.

        An arrival changes pairings within 2 tolerances of itself. Deciding these pairings takes the
        observations within 4 tolerances, which are in rows within 5, since a pair is stored at the
        time of its primary. The widest gap that is filled comes on top.
        """
        return self.reach_over(self.interpolation_max_gap)

    def reach_over(self, widest_fill: timedelta) -> timedelta:
        """The reach in a series in which a gap of the width `widest_fill` was filled.

        The gap may have been filled under a larger `interpolation_max_gap` than the present one.
        """
        return max(widest_fill, self.interpolation_max_gap) + 5 * self.pairing_tolerance

    def fills(self, width: timedelta) -> bool:
        """Return True if a gap of this width is filled."""
        return self.gap_detection_threshold < width <= self.interpolation_max_gap


@dataclass(frozen=True, slots=True)
class Observation:
    """A price that one source observed at one time."""

    source: Source
    at: datetime
    price: Decimal

    @property
    def key(self) -> ObservationKey:
        return (self.source, self.at)


@dataclass(frozen=True, slots=True)
class Point:
    """A row of a clean series.

    A real point holds the one or two observations that it was made from. An interpolated point
    holds none.
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

    def observation_keys(self) -> frozenset[ObservationKey]:
        return frozenset(observation.key for observation in self.observations())


def pairs(
    observations: Iterable[Observation], tolerance: timedelta
) -> list[tuple[Observation | None, Observation | None]]:
    """Return every observation once, as (primary, replica), (primary, None) or (None, replica).

    Two observations are a pair if each is the nearest to the other from the opposite source and
    they are at most `tolerance` apart. Of two equally near observations, the earlier counts as
    the nearest.
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


def points(observations: Iterable[Observation], rules: CleaningRules) -> list[Point]:
    """Return the real points that observations make, in order of time.

    Of several observations by one source at one time, the last one in the iterable counts.
    """
    unique = {observation.key: observation for observation in observations}
    real = [
        _point(primary, replica, rules)
        for primary, replica in pairs(unique.values(), rules.pairing_tolerance)
    ]
    return sorted(real, key=lambda point: point.at)


def fill(
    start: datetime, start_price: Decimal, end: datetime, end_price: Decimal, rules: CleaningRules
) -> list[Point]:
    """Return the interpolated points between two neighbouring real points, without the ends."""
    width = end - start
    if not rules.fills(width):
        return []
    filled = []
    at = start + rules.interpolation_step
    while at < end:
        price = start_price
        if rules.interpolation_method is Interpolation.LINEAR:
            elapsed, total = (at - start) // MICROSECOND, width // MICROSECOND
            price = (start_price + (end_price - start_price) * elapsed / total).quantize(
                STORED_STEP, ROUND_HALF_EVEN
            )
        filled.append(Point(at, price, Flag.INTERPOLATED))
        at += rules.interpolation_step
    return filled


def with_fills(real: Sequence[Point], rules: CleaningRules) -> list[Point]:
    """Return real points, given in order of time, with the interpolated points between them."""
    rows = list(real[:1])
    for before, after in pairwise(real):
        rows += fill(before.at, before.price, after.at, after.price, rules)
        rows.append(after)
    return rows


def clean_series(observations: Iterable[Observation], rules: CleaningRules) -> list[Point]:
    """Return the whole series that observations make. This is the definition of a clean series."""
    return with_fills(points(observations, rules), rules)


def _nearest(times: Sequence[datetime], at: datetime) -> int | None:
    after = bisect_left(times, at)
    if after == len(times):
        return after - 1 if times else None
    if after == 0 or times[after] - at < at - times[after - 1]:
        return after
    return after - 1


def _point(primary: Observation | None, replica: Observation | None, rules: CleaningRules) -> Point:
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
