"""Decide which instance a report speaks for, and which instance may become the known primary.

What a client says about itself is a claim. The rows of SEF decide: a report that names the
standby is the standby's, and no report or signal makes a standby or a former primary the primary.
"""

from datetime import datetime
from enum import StrEnum

from sef.terms import LIVE, ReplicaStatus, Source


class Door(StrEnum):
    """The way by which an instance is named as an agent's primary."""

    REPORT = "report"
    SIGNAL = "signal"
    OPERATOR = "operator"  # PUT /api/agents/<id>


class Role(StrEnum):
    """The relation of an instance to an agent, as the rows of SEF show it."""

    UNKNOWN = "unknown"  # SEF knows nothing about it
    STANDBY = "standby"  # a standby, launching or ready, of this agent or of another one
    RELEASING = "releasing"  # a standby that SEF is terminating
    ENDED = "ended"  # a replica that has ended
    PROMOTED = "promoted"  # launched by SEF, and the primary of this or another agent at some time
    FORMER = "former"  # the agent's primary at an earlier time
    SIGNALLED = "signalled"  # the subject of an incident of the agent


def role_of(replica: ReplicaStatus | None, *, was_primary: bool, has_incident: bool) -> Role:
    """Return the role of an instance that is not the agent's primary.

    Args:
        replica: status of the replica for which SEF launched the instance; None: SEF did not.
        was_primary: the instance was the agent's primary at an earlier time.
        has_incident: the agent has an incident with this instance as its subject.
    """
    if replica in LIVE:
        return Role.STANDBY
    if replica is ReplicaStatus.RELEASING:
        return Role.RELEASING
    if was_primary:
        return Role.FORMER
    if replica is ReplicaStatus.PROMOTED:
        return Role.PROMOTED
    if replica is not None:
        return Role.ENDED
    return Role.SIGNALLED if has_incident else Role.UNKNOWN


def may_become_primary(door: Door, role: Role) -> bool:
    """Return True if an instance with this role may become the agent's known primary.

    A report or a signal may only name an instance that SEF knows nothing about: the late report of
    a former primary must not undo a promotion. An operator may name every instance but a standby,
    which SEF would terminate as soon as no incident or mode needs it. The termination of a standby
    that is being released is cancelled, if EC2 was not called yet (`sef.failover.primaries`).
    """
    if door is Door.OPERATOR:
        return role is not Role.STANDBY
    return role is Role.UNKNOWN


def source_of(
    claimed: Source,
    named: str | None,
    observed_at: datetime,
    *,
    primary: str | None,
    primary_since: datetime | None,
    is_launched: bool,
    standby: str | None,
) -> Source:
    """Return the source of a report: the primary or a replica.

    The answer for one report stays the same over a promotion, so that a report that is sent again
    has no effect.

    Args:
        claimed: the source by `is_replica` of the report.
        named: the instance that the report names.
        primary_since: time at which `primary` became the primary; None: when the agent was created.
        is_launched: SEF launched the primary as a standby.
        standby: the instance of the agent's standby.
    """
    if named is None:
        return claimed
    if named == standby:
        return Source.REPLICA
    if named != primary:
        return claimed
    if primary_since is None or observed_at >= primary_since:
        return Source.PRIMARY
    return Source.REPLICA if is_launched else claimed
