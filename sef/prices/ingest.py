"""Plan the rows to write when observations arrive for one stored series.

An observation waits in the buffer while the other half of its pair may still arrive.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sef.prices.merge import (
    Gap,
    MergeWindow,
    SeriesBounds,
    SeriesChange,
    append,
    can_append,
    merge,
    merge_windows,
    new_wide_gaps,
)
from sef.prices.series import CleaningRules, Observation, ObservationKey, Point, pairs

EXPECTED_FOR = timedelta(minutes=10)
"""Time for which a standby is expected to report after it became ready or last reported."""


@dataclass(frozen=True, slots=True)
class BufferedObservation:
    """An observation in the buffer."""

    observation: Observation
    received_at: datetime


@dataclass(frozen=True, slots=True)
class ReportResult:
    """The result of one arrival: the point that holds it, or None while it waits."""

    point: Point | None
    is_repeat: bool


@dataclass(frozen=True, slots=True)
class SeriesUpdate:
    """The rows to write for a series, and the result of each arrival."""

    bounds: SeriesBounds | None
    upserts: tuple[Point, ...]
    deletes: tuple[datetime, ...]
    buffered: tuple[Observation, ...]
    released: tuple[Observation, ...]
    waiting_count: int
    outcomes: tuple[ReportResult, ...]
    wide_gaps: tuple[Gap, ...]

    @property
    def interpolated(self) -> int:
        return sum(not point.is_real for point in self.upserts)


def windows_to_read(
    bounds: SeriesBounds | None,
    waiting: Sequence[BufferedObservation],
    arrivals: Sequence[Observation],
    rules: CleaningRules,
) -> list[MergeWindow]:
    """Return the windows of the stored series that `plan_update` needs; none for an append."""
    observations = [*(buffered.observation for buffered in waiting), *arrivals]
    if can_append(bounds, observations, rules):
        return []
    return merge_windows(observations, rules, bounds)


def plan_update(
    bounds: SeriesBounds | None,
    stored: Sequence[Point],
    waiting: Sequence[BufferedObservation],
    arrivals: Sequence[Observation],
    *,
    replica_expected: bool,
    now: datetime,
    window: timedelta,
    rules: CleaningRules,
) -> SeriesUpdate:
    """Plan the update of a series for arrivals, given in the order in which they were received.

    If no replica is expected, no arrival waits and the buffered observations are released.

    Args:
        bounds: ends of the stored series; None for an empty series.
        stored: rows of the windows that `windows_to_read` returns, in order of time.
        waiting: buffered observations of the series.
        arrivals: observations that arrive now.
        replica_expected: result of `replica_is_expected`.
        now: current time.
        window: maximum time that an observation waits.
        rules: thresholds.
    """
    is_alone = not (stored or waiting or replica_expected)
    if is_alone and arrivals and can_append(bounds, arrivals, rules):
        return _plan_append(bounds, arrivals, rules)
    stored_observations = [observation for point in stored for observation in point.observations()]
    buffered_before = {buffered.observation.key: buffered.observation for buffered in waiting}
    known = {observation.key: observation for observation in stored_observations} | buffered_before
    new_arrivals, repeats = [], []
    for arrival in arrivals:
        is_repeat = known.get(arrival.key) == arrival
        repeats.append(is_repeat)
        if not is_repeat:
            known[arrival.key] = arrival
            new_arrivals.append(arrival)

    due, kept = split_due(
        stored_observations,
        waiting,
        new_arrivals,
        expected=replica_expected,
        now=now,
        window=window,
        rules=rules,
    )
    kept_keys = {observation.key for observation in kept}
    changes = _changes(bounds, stored, due, rules)
    upserts = tuple(point for change in changes for point in change.upserts)
    deletes = tuple(at for change in changes for at in change.deletes)
    new_points = [point for change in changes for point in change.points]
    # A change replaces every old point of its window that it was made from.
    holders = _points_by_observation([*stored, *new_points])
    old_times = {point.at for point in stored if point.is_real}
    moved = {*deletes, *(point.at for point in upserts if not point.is_real)}
    new_times = old_times - moved | {point.at for point in new_points}
    return SeriesUpdate(
        bounds=changes[-1].bounds if changes else bounds,
        upserts=upserts,
        deletes=deletes,
        buffered=tuple(
            observation
            for observation in kept
            if buffered_before.get(observation.key) != observation
        ),
        released=tuple(
            observation for at, observation in buffered_before.items() if at not in kept_keys
        ),
        waiting_count=len(kept),
        outcomes=tuple(
            ReportResult(None if arrival.key in kept_keys else holders[arrival.key], is_repeat)
            for arrival, is_repeat in zip(arrivals, repeats, strict=True)
        ),
        wide_gaps=tuple(new_wide_gaps(bounds, old_times, new_times, rules)),
    )


def replica_is_expected(
    ready_at: datetime | None, heard_at: datetime | None, now: datetime
) -> bool:
    """Return True if a live standby is expected to report the series too.

    A standby that reports only other pools is expected during its first minutes only, because its
    reports cannot pair with this series.

    Args:
        ready_at: time at which the agent's standby became ready; None without a ready standby.
        heard_at: time of the last report of a replica for this series.
        now: current time.
    """
    if ready_at is None:
        return False
    return now - ready_at < EXPECTED_FOR or (heard_at is not None and now - heard_at < EXPECTED_FOR)


def split_due(
    stored: Iterable[Observation],
    waiting: Sequence[BufferedObservation],
    arrivals: Sequence[Observation],
    *,
    expected: bool,
    now: datetime,
    window: timedelta,
    rules: CleaningRules,
) -> tuple[list[Observation], list[Observation]]:
    """Return the arrivals and buffered observations to merge now, and those to keep in the buffer.

    An observation is merged if no replica is expected, if it corrects a stored observation, if the
    other half of its pair is present, or if it has waited for `window`. The choice does not change
    the final series: every observation is merged eventually, and the series depends on the set of
    observations only.
    """
    known = {observation.key: observation for observation in stored}
    pending = {buffered.observation.key: buffered.observation for buffered in waiting}
    pending |= {arrival.key: arrival for arrival in arrivals}
    if not expected:
        return list(pending.values()), []
    overdue = {
        buffered.observation.key for buffered in waiting if buffered.received_at <= now - window
    }
    paired = {
        half.key
        for pair in pairs((known | pending).values(), rules.pairing_tolerance)
        if None not in pair
        for half in pair
        if half is not None
    }
    due: list[Observation] = []
    kept: list[Observation] = []
    for key, observation in pending.items():
        is_due = key in known or key in paired or key in overdue
        (due if is_due else kept).append(observation)
    return due, kept


def _plan_append(
    bounds: SeriesBounds | None, arrivals: Sequence[Observation], rules: CleaningRules
) -> SeriesUpdate:
    """Plan the common case: no stored point is near and no observation waits."""
    latest: dict[ObservationKey, Observation] = {}
    repeats = []
    for arrival in arrivals:
        repeats.append(latest.get(arrival.key) == arrival)
        latest[arrival.key] = arrival
    change = append(bounds, list(latest.values()), rules)
    holders = _points_by_observation(change.points)
    new_times = [point.at for point in change.points]
    return SeriesUpdate(
        bounds=change.bounds,
        upserts=change.upserts,
        deletes=(),
        buffered=(),
        released=(),
        waiting_count=0,
        outcomes=tuple(
            ReportResult(holders[arrival.key], is_repeat)
            for arrival, is_repeat in zip(arrivals, repeats, strict=True)
        ),
        wide_gaps=tuple(new_wide_gaps(bounds, (), new_times, rules)),
    )


def _points_by_observation(points: Iterable[Point]) -> dict[ObservationKey, Point]:
    return {observation.key: point for point in points for observation in point.observations()}


def _changes(
    bounds: SeriesBounds | None,
    stored: Sequence[Point],
    due: Sequence[Observation],
    rules: CleaningRules,
) -> list[SeriesChange]:
    if not due:
        return []
    if can_append(bounds, due, rules):
        return [append(bounds, due, rules)]
    changes: list[SeriesChange] = []
    times = [point.at for point in stored]
    for window in merge_windows(due, rules, bounds):
        near = stored[bisect_left(times, window.start) : bisect_right(times, window.end)]
        changes.append(merge(bounds, near, window.arrivals, rules))
        bounds = changes[-1].bounds
    return changes
