"""Taking reports into one stored series: what is new, what waits, what has to be written."""

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
from sef.prices.series import CleaningRules, Instant, Observation, Point, pairs


@dataclass(frozen=True, slots=True)
class ReportResult:
    """What became of one arrival: the point that holds it, or None while it waits."""

    point: Point | None
    is_repeat: bool


@dataclass(frozen=True, slots=True)
class SeriesUpdate:
    """What has to be written for a series, and what to answer for each arrival."""

    head: SeriesBounds | None
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


@dataclass(frozen=True, slots=True)
class BufferedObservation:
    """An observation in the buffer."""

    observation: Observation
    received_at: datetime


def windows_to_read(
    head: SeriesBounds | None,
    waiting: Sequence[BufferedObservation],
    arrivals: Sequence[Observation],
    rules: CleaningRules,
) -> list[MergeWindow]:
    """The stretches of the stored series that `plan` has to be given; none for an append."""
    observations = [*(held.observation for held in waiting), *arrivals]
    if can_append(head, observations, rules):
        return []
    return merge_windows(observations, rules)


def plan_update(
    head: SeriesBounds | None,
    stored: Sequence[Point],
    waiting: Sequence[BufferedObservation],
    arrivals: Sequence[Observation],
    *,
    replica_expected: bool,
    now: datetime,
    window: timedelta,
    rules: CleaningRules,
) -> SeriesUpdate:
    """Take arrivals, in the order they were received, into a series.

    `stored` holds the rows of the stretches that `to_read` asks for, in order of time. Without an
    expected replica nothing waits, and what waited is released.
    """
    is_free = not (stored or waiting or replica_expected)
    if is_free and arrivals and can_append(head, arrivals, rules):
        return _plan_to_append(head, arrivals, rules)
    observed = [seen for point in stored for seen in point.observations()]
    held_before = {_instant(held.observation): held.observation for held in waiting}
    known = {_instant(seen): seen for seen in observed} | held_before
    fresh, repeats = [], []
    for arrival in arrivals:
        repeats.append(known.get(_instant(arrival)) == arrival)
        if not repeats[-1]:
            known[_instant(arrival)] = arrival
            fresh.append(arrival)

    due, kept = split_due(
        observed, waiting, fresh, now=now, window=window, expected=replica_expected, rules=rules
    )
    changes = _changes(head, stored, due, rules)
    upserts = tuple(point for change in changes for point in change.upserts)

    holders = {_instant(seen): point for point in stored for seen in point.observations()}
    for change in changes:
        holders |= {_instant(o): point for point in change.points for o in point.observations()}
    # Every old point that a change was made from is in its neighbourhood, and replaced by it.
    was = {point.at for point in stored if point.is_real}
    made = {point.at for change in changes for point in change.points}
    moved = {at for change in changes for at in change.deletes}
    moved |= {point.at for point in upserts if not point.is_real}
    kept_instants = {_instant(seen) for seen in kept}
    return SeriesUpdate(
        head=changes[-1].head if changes else head,
        upserts=upserts,
        deletes=tuple(at for change in changes for at in change.deletes),
        buffered=tuple(seen for seen in kept if held_before.get(_instant(seen)) != seen),
        released=tuple(seen for at, seen in held_before.items() if at not in kept_instants),
        waiting_count=len(kept),
        outcomes=tuple(
            ReportResult(
                None if _instant(arrival) in kept_instants else holders[_instant(arrival)],
                is_repeat,
            )
            for arrival, is_repeat in zip(arrivals, repeats, strict=True)
        ),
        wide_gaps=tuple(new_wide_gaps(head, was, was - moved | made, rules)),
    )


def _plan_to_append(
    head: SeriesBounds | None, arrivals: Sequence[Observation], rules: CleaningRules
) -> SeriesUpdate:
    """What most reports need: nothing lies near and nothing waits, so there is less to sort out."""
    latest: dict[Instant, Observation] = {}
    repeats = []
    for arrival in arrivals:
        repeats.append(latest.get(_instant(arrival)) == arrival)
        latest[_instant(arrival)] = arrival
    change = append(head, list(latest.values()), rules)
    holders = {_instant(seen): point for point in change.points for seen in point.observations()}
    return SeriesUpdate(
        head=change.head,
        upserts=change.upserts,
        deletes=(),
        buffered=(),
        released=(),
        waiting_count=0,
        outcomes=tuple(
            ReportResult(holders[_instant(arrival)], is_repeat)
            for arrival, is_repeat in zip(arrivals, repeats, strict=True)
        ),
        wide_gaps=tuple(new_wide_gaps(head, (), [point.at for point in change.points], rules)),
    )


def _changes(
    head: SeriesBounds | None,
    stored: Sequence[Point],
    due: Sequence[Observation],
    rules: CleaningRules,
) -> list[SeriesChange]:
    if not due:
        return []
    if can_append(head, due, rules):
        return [append(head, due, rules)]
    changes: list[SeriesChange] = []
    times = [point.at for point in stored]
    for part in merge_windows(due, rules):
        near = stored[bisect_left(times, part.start) : bisect_right(times, part.end)]
        changes.append(merge(head, near, part.arrivals, rules))
        head = changes[-1].head
    return changes


def _instant(observation: Observation) -> Instant:
    return (observation.source, observation.at)


EXPECTED_FOR = timedelta(minutes=10)
"""How long a standby is expected to report after it became ready or was last heard from."""


def replica_is_expected(
    ready_at: datetime | None, heard_at: datetime | None, now: datetime
) -> bool:
    """Whether a live standby will report this series too.

    `ready_at` is when the agent's ready standby became so (None: it has none), `heard_at` when a
    replica last reported this series. A standby that reports other pools only is not waited for
    beyond its first minutes, since nothing of it could ever pair here.
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
    """Divide the arrivals, and what waits already, into (to be merged now, to be kept waiting).

    An observation is merged when no replica is expected, when it corrects a stored one, when its
    other half is there, or when it has waited for `window`. Which ones wait never matters in the
    end: all are merged sometime, and the series depends on the set alone.
    """
    known = {(seen.source, seen.at): seen for seen in stored}
    pending = {(held.observation.source, held.observation.at): held.observation for held in waiting}
    pending |= {(arrival.source, arrival.at): arrival for arrival in arrivals}
    if not expected:
        return list(pending.values()), []
    overdue = {
        (held.observation.source, held.observation.at)
        for held in waiting
        if held.received_at <= now - window
    }
    paired = {
        (half.source, half.at)
        for pair in pairs((known | pending).values(), rules.pairing_tolerance)
        if None not in pair
        for half in pair
        if half is not None
    }
    merged: list[Observation] = []
    kept: list[Observation] = []
    for key, observation in pending.items():
        is_due = key in known or key in paired or key in overdue
        (merged if is_due else kept).append(observation)
    return merged, kept
