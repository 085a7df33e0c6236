"""Whether an observation waits for its other half, and when the wait is over."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sef.core.pricing import Observation, Rules, pairs

EXPECTED_FOR = timedelta(minutes=10)
"""How long a standby is expected to report after it became ready or was last heard from."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An observation in the buffer."""

    observation: Observation
    received_at: datetime


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


def hold(
    stored: Iterable[Observation],
    waiting: Sequence[Waiting],
    arrivals: Sequence[Observation],
    *,
    expected: bool,
    now: datetime,
    window: timedelta,
    rules: Rules,
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
