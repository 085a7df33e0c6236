"""Compute the end of each step's holder: how urgent it is that the target moves.

The urgency follows from the instance that holds a target now, not from how the cutover began. A
target that a healthy former primary holds can wait; one that an ended or announced instance holds
cannot.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

ANNOUNCED_FOR = timedelta(minutes=10)
"""Time after an announced end from which a former primary that still runs counts as safe."""

MISSING_FOR = timedelta(minutes=5)
"""Time from which a former primary that EC2 does not show counts as ended."""


@dataclass(frozen=True, slots=True)
class Former:
    """A former primary of an agent.

    Attributes:
        ends_at: its announced end, or the time at which it was found ended; None: it lives on as
            far as is known.
    """

    instance_id: str
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class NotRunning:
    """An instance that EC2 shows ended or stopped, or does not show.

    Attributes:
        since: time of the first look.
        is_shown: True if EC2 itself shows it so, which is proof; that it is missing from an answer
            is none.
    """

    since: datetime
    is_shown: bool


def seen_not_running(
    formers: Iterable[Former],
    alive: Mapping[str, bool],
    before: Mapping[str, NotRunning],
    now: datetime,
) -> dict[str, NotRunning]:
    """Return the former primaries that do not run, after a look at EC2.

    Args:
        alive: for each instance that EC2 shows with its state, True if it is pending or running.
        before: the result of the look before this one.
    """
    result = {}
    for former in formers:
        instance_id = former.instance_id
        is_alive = alive.get(instance_id)
        has_ended = former.ends_at is not None and former.ends_at <= now
        if is_alive or (is_alive is None and has_ended):
            continue  # the rows know the end of an instance that EC2 no longer shows
        known = before.get(instance_id)
        since = known.since if known is not None and known.since <= now else now
        is_shown = is_alive is False or (known is not None and known.is_shown)
        result[instance_id] = NotRunning(since, is_shown)
    return result


def after_look(
    formers: Iterable[Former],
    alive: Mapping[str, bool],
    not_running: Mapping[str, NotRunning],
    now: datetime,
) -> list[Former]:
    """Return the former primaries with their ends as a look at EC2 has shown them."""
    result = []
    for former in formers:
        missing = not_running.get(former.instance_id)
        if missing is not None and (missing.is_shown or now - missing.since >= MISSING_FOR):
            ends = [missing.since] if former.ends_at is None else [missing.since, former.ends_at]
            former = replace(former, ends_at=min(ends))
        elif alive.get(former.instance_id) and not _is_announced(former, now):
            former = replace(former, ends_at=None)
        result.append(former)
    return result


def common_end(formers: Sequence[Former], now: datetime) -> tuple[bool, datetime | None]:
    """Return True and the end that all former primaries have in common; False if they differ.

    Ended instances have the same end: now.
    """
    ends = {None if f.ends_at is None else max(f.ends_at, now) for f in formers}
    if len(ends) != 1:
        return not ends, None
    ended = [f.ends_at for f in formers if f.ends_at is not None]
    return True, min(ended, default=None)


def end_of_holder(
    holders: frozenset[str] | None, formers: Sequence[Former], now: datetime
) -> datetime | None:
    """Return the end of a target's holder; None if the target can wait.

    Args:
        holders: the former primaries that have the target now. None: not known.
    """
    if holders is None:
        return None
    if not holders:
        # AWS takes an address or a volume from an instance that ends.
        return min((f.ends_at for f in formers if f.ends_at and f.ends_at <= now), default=None)
    ends = [former.ends_at for former in formers if former.instance_id in holders]
    known = [end for end in ends if end is not None]
    return min(known) if known and len(known) == len(ends) else None


def _is_announced(former: Former, now: datetime) -> bool:
    return former.ends_at is not None and now - former.ends_at < ANNOUNCED_FOR
