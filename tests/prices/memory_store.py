"""A store of one series, as a dict: it reads and writes what `sef.prices.ingest` says, no more."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from sef.prices.ingest import BufferedObservation, SeriesUpdate, plan_update, windows_to_read
from sef.prices.merge import MergeWindow, SeriesBounds, SeriesChange
from sef.prices.series import CleaningRules, Observation, Point
from sef.terms import Source
from tests.prices import oracle
from tests.prices.observations import T

WINDOW = timedelta(seconds=300)


@dataclass(frozen=True)
class Snapshot:
    version: int
    bounds: SeriesBounds | None
    waiting: tuple[BufferedObservation, ...]
    stored: list[Point]


@dataclass
class MemoryStore:
    rules: CleaningRules
    rows: dict[datetime, Point] = field(default_factory=dict)
    bounds: SeriesBounds | None = None
    buffer: dict[tuple[Source, datetime], BufferedObservation] = field(default_factory=dict)
    version: int = 0
    received: list[Observation] = field(default_factory=list)
    """In the order in which it was committed."""
    told_gaps: list[tuple[datetime, datetime]] = field(default_factory=list)

    @property
    def series(self) -> list[Point]:
        return sorted(self.rows.values(), key=lambda point: point.at)

    @property
    def observations(self) -> list[Observation]:
        """What the rows were made of, once for each time that it is in them."""
        return [seen for point in self.series for seen in point.observations()]

    def within(self, parts: Iterable[MergeWindow]) -> list[Point]:
        parts = list(parts)
        for one, following in pairwise(parts):
            assert one.end < following.start, "a row would be read twice"
        return [p for p in self.series if any(part.start <= p.at <= part.end for part in parts)]

    def read(self, arrivals: Sequence[Observation]) -> Snapshot:
        waiting = tuple(self.buffer.values())
        if self.version % 2:  # a table has no order
            waiting = waiting[::-1]
        parts = windows_to_read(self.bounds, waiting, arrivals, self.rules)
        return Snapshot(self.version, self.bounds, waiting, self.within(parts))

    def plan(
        self,
        seen: Snapshot,
        arrivals: Sequence[Observation],
        *,
        replica_expected: bool = False,
        now: datetime = T,
    ) -> SeriesUpdate:
        return plan_update(
            seen.bounds,
            seen.stored,
            seen.waiting,
            arrivals,
            replica_expected=replica_expected,
            now=now,
            window=WINDOW,
            rules=self.rules,
        )

    def commit(
        self, seen: Snapshot, arrivals: Sequence[Observation], made: SeriesUpdate, now: datetime = T
    ) -> bool:
        """Write a plan; False when another worker has written since the snapshot was read."""
        if seen.version != self.version:
            return False
        self.version += 1
        self.write_rows(made.upserts, made.deletes)
        self.bounds = made.bounds
        for observation in made.released:
            assert self.buffer.pop((observation.source, observation.at)).observation == observation
        for observation in made.buffered:
            self.buffer[observation.source, observation.at] = BufferedObservation(observation, now)
        self.received += arrivals
        self.told_gaps += [(gap.start, gap.end) for gap in made.wide_gaps]
        return True

    def write_rows(self, upserts: Iterable[Point], deletes: Iterable[datetime]) -> None:
        upserts, deletes = list(upserts), list(deletes)
        named = [point.at for point in upserts] + deletes
        assert len(named) == len(set(named)), "a row is named twice"
        for moment in deletes:
            del self.rows[moment]
        for point in upserts:
            assert self.rows.get(point.at) != point, "a row is written that does not change"
            self.rows[point.at] = point

    def write_change(self, change: SeriesChange) -> None:
        self.write_rows(change.upserts, change.deletes)
        self.bounds = change.bounds

    def take(
        self,
        arrivals: Sequence[Observation],
        *,
        replica_expected: bool = False,
        now: datetime = T,
    ) -> SeriesUpdate:
        """One transaction."""
        seen = self.read(arrivals)
        made = self.plan(seen, arrivals, replica_expected=replica_expected, now=now)
        assert self.commit(seen, arrivals, made, now)
        return made

    def check(self) -> None:
        """That rows, buffer and bounds are what everything received so far makes them."""
        received = oracle.last_received(self.received)
        waiting = [held.observation for held in self.buffer.values()]
        merged = [seen for seen in received if seen not in waiting]
        assert len(waiting) + len(merged) == len(received), "the buffer holds what was not received"
        assert sorted(self.observations, key=repr) == sorted(merged, key=repr)
        assert self.series == oracle.series(merged, self.rules)
        assert self.bounds == bounds_of(merged, self.rules)


def bounds_of(observations: Sequence[Observation], rules: CleaningRules) -> SeriesBounds | None:
    real = oracle.real_points(observations, rules)
    if not real:
        return None
    latest_observed_at = max(seen.at for seen in observations)
    return SeriesBounds(real[0].at, real[-1].at, real[-1].price, latest_observed_at)
