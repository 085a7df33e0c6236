"""A store of one series in a dict. It reads and writes exactly the rows of `sef.prices.ingest`."""

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
    """All arrivals, in the order of their commits."""
    reported_gaps: list[tuple[datetime, datetime]] = field(default_factory=list)

    @property
    def series(self) -> list[Point]:
        return sorted(self.rows.values(), key=lambda point: point.at)

    @property
    def observations(self) -> list[Observation]:
        """The observations of the rows, with repetitions if rows share one."""
        return [seen for point in self.series for seen in point.observations()]

    def within(self, windows: Iterable[MergeWindow]) -> list[Point]:
        windows = list(windows)
        for window, following in pairwise(windows):
            assert window.end < following.start, "a row would be read twice"
        return [
            p for p in self.series if any(window.start <= p.at <= window.end for window in windows)
        ]

    def read(self, arrivals: Sequence[Observation]) -> Snapshot:
        waiting = tuple(self.buffer.values())
        if self.version % 2:  # a table has no order
            waiting = waiting[::-1]
        windows = windows_to_read(self.bounds, waiting, arrivals, self.rules)
        return Snapshot(self.version, self.bounds, waiting, self.within(windows))

    def plan(
        self,
        snapshot: Snapshot,
        arrivals: Sequence[Observation],
        *,
        replica_expected: bool = False,
        now: datetime = T,
    ) -> SeriesUpdate:
        return plan_update(
            snapshot.bounds,
            snapshot.stored,
            snapshot.waiting,
            arrivals,
            replica_expected=replica_expected,
            now=now,
            window=WINDOW,
            rules=self.rules,
        )

    def commit(
        self,
        snapshot: Snapshot,
        arrivals: Sequence[Observation],
        update: SeriesUpdate,
        now: datetime = T,
    ) -> bool:
        """Write a plan; return False if another worker has written since the snapshot was read."""
        if snapshot.version != self.version:
            return False
        self.version += 1
        self.write_rows(update.upserts, update.deletes)
        self.bounds = update.bounds
        for observation in update.released:
            assert self.buffer.pop(observation.key).observation == observation
        for observation in update.buffered:
            self.buffer[observation.key] = BufferedObservation(observation, now)
        self.received += arrivals
        self.reported_gaps += [(gap.start, gap.end) for gap in update.wide_gaps]
        return True

    def write_rows(self, upserts: Iterable[Point], deletes: Iterable[datetime]) -> None:
        upserts, deletes = list(upserts), list(deletes)
        written = [point.at for point in upserts] + deletes
        assert len(written) == len(set(written)), "a row is written twice"
        for moment in deletes:
            del self.rows[moment]
        for point in upserts:
            assert self.rows.get(point.at) != point, "an unchanged row is written"
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
        """Read, plan and commit in one transaction."""
        snapshot = self.read(arrivals)
        update = self.plan(snapshot, arrivals, replica_expected=replica_expected, now=now)
        assert self.commit(snapshot, arrivals, update, now)
        return update

    def check(self) -> None:
        """Assert that rows, buffer and bounds match everything received so far."""
        received = oracle.last_received(self.received)
        waiting = [buffered.observation for buffered in self.buffer.values()]
        merged = [seen for seen in received if seen not in waiting]
        assert len(waiting) + len(merged) == len(received), (
            "the buffer holds an observation that was not received"
        )
        assert sorted(self.observations, key=repr) == sorted(merged, key=repr)
        assert self.series == oracle.series(merged, self.rules)
        assert self.bounds == bounds_of(merged, self.rules)


def bounds_of(observations: Sequence[Observation], rules: CleaningRules) -> SeriesBounds | None:
    real = oracle.real_points(observations, rules)
    if not real:
        return None
    latest_observed_at = max(seen.at for seen in observations)
    return SeriesBounds(real[0].at, real[-1].at, real[-1].price, latest_observed_at)
