"""Taking reports into one stored series: what is new, what waits, what has to be written."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sef.core.buffer import Waiting, hold
from sef.core.pricing import (
    Change,
    Gap,
    Head,
    Instant,
    Neighbourhood,
    Observation,
    Point,
    Rules,
    append,
    can_append,
    merge,
    neighbourhoods,
    new_wide_gaps,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one arrival: the point that holds it, or None while it waits."""

    point: Point | None
    is_repeat: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be written for a series, and what to answer for each arrival."""

    head: Head | None
    upserts: tuple[Point, ...]
    deletes: tuple[datetime, ...]
    buffered: tuple[Observation, ...]
    released: tuple[Observation, ...]
    waiting_count: int
    outcomes: tuple[Outcome, ...]
    wide_gaps: tuple[Gap, ...]

    @property
    def interpolated(self) -> int:
        return sum(not point.is_real for point in self.upserts)


def to_read(
    head: Head | None, waiting: Sequence[Waiting], arrivals: Sequence[Observation], rules: Rules
) -> list[Neighbourhood]:
    """The stretches of the stored series that `plan` has to be given; none for an append."""
    observations = [*(held.observation for held in waiting), *arrivals]
    if can_append(head, observations, rules):
        return []
    return neighbourhoods(observations, rules)


def plan(
    head: Head | None,
    stored: Sequence[Point],
    waiting: Sequence[Waiting],
    arrivals: Sequence[Observation],
    *,
    replica_expected: bool,
    now: datetime,
    window: timedelta,
    rules: Rules,
) -> Plan:
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

    due, kept = hold(
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
    return Plan(
        head=changes[-1].head if changes else head,
        upserts=upserts,
        deletes=tuple(at for change in changes for at in change.deletes),
        buffered=tuple(seen for seen in kept if held_before.get(_instant(seen)) != seen),
        released=tuple(seen for at, seen in held_before.items() if at not in kept_instants),
        waiting_count=len(kept),
        outcomes=tuple(
            Outcome(
                None if _instant(arrival) in kept_instants else holders[_instant(arrival)],
                is_repeat,
            )
            for arrival, is_repeat in zip(arrivals, repeats, strict=True)
        ),
        wide_gaps=tuple(new_wide_gaps(head, was, was - moved | made, rules)),
    )


def _plan_to_append(head: Head | None, arrivals: Sequence[Observation], rules: Rules) -> Plan:
    """What most reports need: nothing lies near and nothing waits, so there is less to sort out."""
    latest: dict[Instant, Observation] = {}
    repeats = []
    for arrival in arrivals:
        repeats.append(latest.get(_instant(arrival)) == arrival)
        latest[_instant(arrival)] = arrival
    change = append(head, list(latest.values()), rules)
    holders = {_instant(seen): point for point in change.points for seen in point.observations()}
    return Plan(
        head=change.head,
        upserts=change.upserts,
        deletes=(),
        buffered=(),
        released=(),
        waiting_count=0,
        outcomes=tuple(
            Outcome(holders[_instant(arrival)], is_repeat)
            for arrival, is_repeat in zip(arrivals, repeats, strict=True)
        ),
        wide_gaps=tuple(new_wide_gaps(head, (), [point.at for point in change.points], rules)),
    )


def _changes(
    head: Head | None, stored: Sequence[Point], due: Sequence[Observation], rules: Rules
) -> list[Change]:
    if not due:
        return []
    if can_append(head, due, rules):
        return [append(head, due, rules)]
    changes: list[Change] = []
    times = [point.at for point in stored]
    for part in neighbourhoods(due, rules):
        near = stored[bisect_left(times, part.start) : bisect_right(times, part.end)]
        changes.append(merge(head, near, part.arrivals, rules))
        head = changes[-1].head
    return changes


def _instant(observation: Observation) -> Instant:
    return (observation.source, observation.at)
