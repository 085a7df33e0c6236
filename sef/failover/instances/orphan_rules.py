"""Decide which of the instances that EC2 lists under SEF's tags a sweep may terminate.

Pure: instances, rows and `now` in, a verdict for each instance out.

SEF commits a client token before each launch and never deletes it. A running instance whose token
no row knows was therefore launched after the rows were written: the database was restored from a
backup, or a second SEF uses a copy of it. The rows are then older than the world, and a sweep by
them could terminate the instance that serves. So one such instance keeps every orphan running,
until an operator has adopted or terminated it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

MIN_ORPHAN_AGE = timedelta(minutes=5)
"""Minimum age of an orphan. The row of a younger instance may be about to be written."""

MAX_SKEW = timedelta(minutes=5)
"""Maximum difference between the clocks of SEF and EC2 that the rules expect."""

_TOKEN = re.compile(r"replica-[0-9a-f]{16}-\d+|call-[0-9a-f]{32}")
"""The client tokens that SEF makes. A tag of another form is no trace of a row."""


class Verdict(StrEnum):
    """The result of the rules for an instance."""

    NOT_AN_ORPHAN = "not-an-orphan"  # a row refers to it, or may be about to
    ORPHAN = "orphan"  # the sweep may terminate it
    UNKNOWN_LAUNCH = "unknown-launch"  # the rows are older than its launch
    HELD = "held"  # an orphan, kept while there are unknown launches
    HEARD = "heard"  # it has just reported as its agent's instance
    PRIMARY_DOWN = "primary-down"  # EC2 does not show the primary of its agent running
    HOLDER = "holder"  # a target would be lost with it, or another launched in its place
    OVER_LIMIT = "over-limit"  # there are more orphans than one run may terminate


KEPT = frozenset(Verdict) - {Verdict.NOT_AN_ORPHAN, Verdict.ORPHAN}
"""The verdicts on orphans that the sweep leaves running."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An instance with SEF's tags, as EC2 lists it.

    Attributes:
        token: the client token of its launch, from its tags.
        agent_id: the agent in its tags; None before the tags of a batched call are complete.
        has_state: EC2 returned its state.
    """

    id: str
    token: str
    agent_id: str | None
    launched_at: datetime | None
    has_state: bool = True
    has_ended: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """The facts that the rows and EC2 contribute.

    Attributes:
        claimed: instances that a row refers to as its own to handle.
        named: instances that any row names, such as the row of a failed replica.
        tokens: client tokens that a row knows.
        open_tokens: those whose call has no answer yet.
        batched: those of batched calls.
        first_launch_at: time of the first launch in the rows; None if they have no launch.
        primaries: the primary of each agent that has one, by agent id.
        running: instances that EC2 shows pending or running.
        heard: time of the last report or signal of an instance for the agent in its tags.
    """

    claimed: Set[str] = frozenset()
    named: Set[str] = frozenset()
    tokens: Set[str] = frozenset()
    open_tokens: Set[str] = frozenset()
    batched: Set[str] = frozenset()
    first_launch_at: datetime | None = None
    primaries: Mapping[str, str] = field(default_factory=dict)
    running: Set[str] = frozenset()
    heard: Mapping[str, datetime] = field(default_factory=dict)


def judge(
    instances: Sequence[Listed],
    known: Known,
    now: datetime,
    *,
    heard_within: timedelta,
    maximum: int,
) -> dict[str, Verdict]:
    """Return the verdict on each instance, by id.

    Args:
        heard_within: time for which a report or a signal keeps an instance.
        maximum: number of terminations of one run; 0: no limit.
    """
    since = first_launch(instances, known)
    verdicts = {
        instance.id: _verdict(instance, known, since, now, heard_within) for instance in instances
    }
    orphans = {id_ for id_, verdict in verdicts.items() if verdict is Verdict.ORPHAN}
    if Verdict.UNKNOWN_LAUNCH in verdicts.values():
        verdicts |= dict.fromkeys(orphans, Verdict.HELD)
    elif maximum and len(orphans) > maximum:
        verdicts |= dict.fromkeys(orphans, Verdict.OVER_LIMIT)
    return verdicts


def first_launch(instances: Iterable[Listed], known: Known) -> datetime | None:
    """Return the time of the first launch that the rows know; None if they know none.

    EC2's time counts where EC2 shows the instance, so that the clocks need not agree.
    """
    times = [i.launched_at for i in instances if i.token in known.tokens and i.launched_at]
    if known.first_launch_at is not None:
        times.append(known.first_launch_at)
    return min(times, default=None)


def is_unknown_launch(instance: Listed, known: Known, since: datetime | None) -> bool:
    """Return True if SEF launched the instance and no row knows the launch.

    An instance from before the first launch in the rows proves nothing: the rows of its time may
    have been deleted on purpose.

    Args:
        since: the first launch that the rows know.
    """
    if instance.has_ended or instance.id in known.named or instance.token in known.tokens:
        return False
    is_from_before = (
        since is not None
        and instance.launched_at is not None
        and instance.launched_at < since - MAX_SKEW
    )
    return _TOKEN.fullmatch(instance.token) is not None and not is_from_before


def _verdict(
    instance: Listed,
    known: Known,
    since: datetime | None,
    now: datetime,
    heard_within: timedelta,
) -> Verdict:
    if is_unknown_launch(instance, known, since):
        return Verdict.UNKNOWN_LAUNCH
    if not _is_orphan(instance, known, now):
        return Verdict.NOT_AN_ORPHAN
    heard_at = known.heard.get(instance.id)
    if heard_at is not None and now - heard_at <= heard_within:
        return Verdict.HEARD
    primary = known.primaries.get(instance.agent_id or "")
    # It may be the only instance left of its agent.
    if primary is not None and primary not in known.running:
        return Verdict.PRIMARY_DOWN
    return Verdict.ORPHAN


def _is_orphan(instance: Listed, known: Known, now: datetime) -> bool:
    """Return True if no row refers to the instance, and none is about to.

    An instance without a state or an age in EC2's answer is left to a later sweep. An instance
    without an agent's tag is an orphan only if a known batched call launched it: the call is
    answered, and no attempt has taken the instance. Otherwise EC2's answer may lack the tag.
    """
    return (
        not instance.has_ended
        and instance.has_state
        and instance.launched_at is not None
        and now - instance.launched_at > MIN_ORPHAN_AGE
        and instance.id not in known.claimed
        and instance.token not in known.open_tokens
        and (instance.agent_id is not None or instance.token in known.batched)
    )
