"""Check standbys and former primaries against EC2, and record lost instances.

If EC2's answer lacks an instance, that is no proof that the instance is gone: answers can lag, come
from a copy that lags, or be incomplete. Only a state that an instance does not come back from is
proof at once. EC2 shows an ended instance for about an hour. An instance that EC2 does not show at
all counts as lost when repeated checks, some time apart, have missed it.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection

from sef.cloud.ec2 import Calls, Instance
from sef.cloud.errors import CloudError, Remedy
from sef.context import Context
from sef.failover.incidents.rows import latest_incident
from sef.failover.standbys.backoff import cool_down_pool_of
from sef.failover.standbys.rows import Replica, change_replica, move_replica, read_replica
from sef.notifications.events import Severity
from sef.terms import ReplicaStatus

MISSING_FOR = timedelta(minutes=5)
"""Time until a missing instance, which EC2 has shown before, counts as lost."""

NEW_MISSING_FOR = timedelta(minutes=10)
"""The same time for an instance that is launching: EC2 shows a new instance late."""

CHECK_MISSING_EVERY = timedelta(seconds=30)
"""Time between two checks of a missing instance, whatever the interval of the other checks.

A missing instance counts as lost after as many such checks as its patience has: ten in five
minutes. With the ordinary interval, a long one would make one answer a proof.
"""

FORGOTTEN_AFTER = timedelta(hours=1)
"""Time until a missing former primary counts as lost: EC2 shows an ended one for as long."""


class Observed(StrEnum):
    """Result of a check."""

    RUNNING = "running"  # or pending
    GONE = "gone"  # it has ended or stopped, or counts as lost
    UNKNOWN = "unknown"  # EC2 shows the instance without its state
    MISSING = "missing"  # EC2's answer lacks the instance


def classify(instance: Instance | None) -> Observed:
    """Return the result of one answer of EC2. None: the answer lacks the instance."""
    if instance is None:
        return Observed.MISSING
    if instance.is_gone:
        return Observed.GONE
    return Observed.RUNNING if instance.is_alive else Observed.UNKNOWN


def record_check(
    connection: Connection,
    replica: Replica,
    observed: Observed,
    now: datetime,
    *,
    every: timedelta,
    patience: timedelta,
) -> Observed:
    """Record a check of a replica, and return GONE if its instance is lost.

    Missing checks are counted rather than timed, so that a worker with a wrong clock cannot give
    up an instance.

    Args:
        every: interval at which a check that finds the instance is recorded.
        patience: time until a missing instance is GONE, counted in checks that are
            `CHECK_MISSING_EVERY` apart. Checks that follow each other faster count as one.

    Raises:
        VersionConflict: the replica has changed since it was read.
    """
    if observed is Observed.GONE:
        return observed
    if observed is not Observed.MISSING:
        if replica.misses or is_check_due(replica, now, every):
            change_replica(connection, replica, checked_at=now, misses=0)
        return observed
    misses = replica.misses
    if not misses or is_check_due(replica, now, CHECK_MISSING_EVERY):
        misses += 1
        change_replica(connection, replica, checked_at=now, misses=misses)
    return Observed.GONE if misses * CHECK_MISSING_EVERY >= patience else Observed.MISSING


def is_check_due(replica: Replica, now: datetime, every: timedelta) -> bool:
    """Return True if the latest check is older than `every`, or lies as far in the future.

    A time in the future comes from a wrong clock.
    """
    return replica.checked_at is None or abs(now - replica.checked_at) >= every


def check_interval(ctx: Context) -> timedelta:
    """Return the time between two checks of a standby or former primary."""
    return timedelta(seconds=ctx.settings.standby_check_interval_seconds)


def is_due(ctx: Context, replica: Replica) -> bool:
    """Return True if a replica is to be checked now; a missing one may be due earlier."""
    every = CHECK_MISSING_EVERY if replica.misses else check_interval(ctx)
    return is_check_due(replica, ctx.clock(), every)


def require_running(ctx: Context, standby: Replica) -> None:
    """Check a ready standby before its promotion. A lost standby becomes failed.

    Raises:
        CloudError: EC2 did not return the state of the standby.
    """
    instance = _describe(ctx, standby)
    if classify(instance) is Observed.RUNNING and not standby.misses:
        return  # the promotion is recorded next, so this check need not be
    if _record_standby_check(ctx, standby, instance) in (Observed.UNKNOWN, Observed.MISSING):
        raise unknown_state(standby)


def check_standby(ctx: Context, standby: Replica) -> Observed:
    """Check a ready standby. A lost standby becomes failed."""
    return _record_standby_check(ctx, standby, _describe(ctx, standby))


def record_result(
    ctx: Context, replica: Replica, observed: Observed, patience: timedelta
) -> Observed:
    """Record a check; return GONE also when the instance was missing for `patience`."""
    return ctx.database.write(_record_result, ctx, replica, observed, patience)


def move_checked(
    ctx: Context, checked: Replica, status: ReplicaStatus, reason: str, calls: Calls | None = None
) -> None:
    """Move a checked replica to another state, unless another worker has moved it."""
    ctx.database.write(move_checked_in, ctx, checked, status, reason, calls)


def move_checked_in(
    connection: Connection,
    ctx: Context,
    checked: Replica,
    status: ReplicaStatus,
    reason: str,
    calls: Calls | None = None,
) -> None:
    """Move a checked replica in this transaction; see `move_checked`.

    The pool of a failed standby is put on cooldown.
    """
    replica = read_replica(connection, checked.id)
    if (
        replica is None
        or replica.status is not checked.status
        or replica.instance_id != checked.instance_id
    ):
        return
    now = ctx.clock()
    severity: Severity = "info"
    if status is ReplicaStatus.FAILED:
        severity = "warning"
        cool_down_pool_of(connection, replica, "Vanished", now, ctx.settings)
    if replica.status is ReplicaStatus.PROMOTED and replica.instance_id is not None:
        # Attribute the end of the instance to the incident that caused the end, not to the incident
        # for which the instance was launched.
        incident = latest_incident(connection, replica.agent_id, replica.instance_id)
        replica = replace(replica, incident_id=incident.id if incident else None)
    move_replica(connection, replica, status, reason, now, severity=severity, calls=calls or ())


def unknown_state(standby: Replica) -> CloudError:
    """Build the error for an answer of EC2 without the state of the standby."""
    message = f"EC2 did not return the state of {standby.instance_id}"
    return CloudError("IncompleteAnswer", message, Remedy.WAIT)


def _describe(ctx: Context, standby: Replica) -> Instance | None:
    assert standby.instance_id is not None
    answer = ctx.describe.submit(standby.instance_id)
    if isinstance(answer, CloudError):
        raise answer.again() from answer
    return answer


def _record_standby_check(ctx: Context, standby: Replica, instance: Instance | None) -> Observed:
    """Record the check of a ready standby, and fail it if it is lost."""
    observed = record_result(ctx, standby, classify(instance), MISSING_FOR)
    if observed is Observed.GONE:
        reason = f"its instance is {instance.ec2_state if instance else 'missing'}"
        move_checked(ctx, standby, ReplicaStatus.FAILED, reason)
    return observed


def _record_result(
    connection: Connection, ctx: Context, replica: Replica, observed: Observed, patience: timedelta
) -> Observed:
    current = read_replica(connection, replica.id)
    if current is None or current.status is not replica.status:
        return observed  # another worker has moved the replica
    every = check_interval(ctx)
    return record_check(connection, current, observed, ctx.clock(), every=every, patience=patience)
