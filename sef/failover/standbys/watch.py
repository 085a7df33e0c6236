"""What a look at EC2 is worth: an instance that an answer lacks is not lost for that.

EC2's answers may lag behind, come from a copy that lags, or be incomplete. Only a state that an
instance does not come back from is proof at once. EC2 shows an instance that has ended for about
an hour; one that is not shown at all is lost when look after look, some time apart, misses it.
"""

from collections.abc import Sequence
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
"""How long EC2 has not to show a standby, or one that launches, until it is given up."""

FORGOTTEN_AFTER = timedelta(hours=1)
"""The same for one that is kept for its operator, as long as EC2 shows what has ended."""


class Observed(StrEnum):
    RUNNING = "running"
    GONE = "gone"
    UNKNOWN = "unknown"  # EC2 shows it without its state
    MISSING = "missing"


def classify(instance: Instance | None) -> Observed:
    """What one answer says."""
    if instance is None:
        return Observed.MISSING
    if instance.is_gone:
        return Observed.GONE
    return Observed.RUNNING if instance.is_alive else Observed.UNKNOWN


def record_check(
    connection: Connection,
    replica: Replica,
    sight: Observed,
    now: datetime,
    *,
    every: timedelta,
    patience: timedelta,
) -> Observed:
    """Write down that a replica was looked at; GONE also when it was missed for too long.

    Looks are counted, and not the time, so that one worker with a wrong clock gives nobody up.

    Args:
        every: looks that follow each other faster count as one.
        patience: for how long it may be missed, in looks of that distance.
    """
    if sight is Observed.GONE:
        return sight
    if sight is not Observed.MISSING:
        if replica.misses or is_check_due(replica, now, every):
            change_replica(connection, replica, checked_at=now, misses=0)
        return sight
    misses = replica.misses
    if not misses or is_check_due(replica, now, every):
        misses += 1
        change_replica(connection, replica, checked_at=now, misses=misses)
    return Observed.GONE if misses * every >= patience else Observed.MISSING


def is_check_due(replica: Replica, now: datetime, every: timedelta) -> bool:
    """Whether a replica is to be looked at again; also when a wrong clock wrote the last time."""
    return replica.checked_at is None or abs(now - replica.checked_at) >= every


def check_interval(ctx: Context) -> timedelta:
    return timedelta(seconds=ctx.settings.standby_check_interval_seconds)


def is_due(ctx: Context, replica: Replica) -> bool:
    """Whether a replica is to be looked at again."""
    return is_check_due(replica, ctx.clock(), check_interval(ctx))


def require_running(ctx: Context, standby: Replica) -> None:
    """Make sure that a ready standby still runs; one that does not has failed.

    Raises:
        CloudError: EC2 cannot say.
    """
    instance = _describe(ctx, standby)
    if classify(instance) is Observed.RUNNING and not standby.misses:
        return  # what follows is written down, so this need not be
    if _apply(ctx, standby, instance) in (Observed.UNKNOWN, Observed.MISSING):
        raise unknown_state(standby)


def check_standby(ctx: Context, standby: Replica) -> Observed:
    """Look whether a ready standby still runs; one that does not has failed."""
    return _apply(ctx, standby, _describe(ctx, standby))


def _describe(ctx: Context, standby: Replica) -> Instance | None:
    assert standby.instance_id is not None
    shown = ctx.describe.submit(standby.instance_id)
    if isinstance(shown, CloudError):
        raise shown.again() from shown
    return shown


def _apply(ctx: Context, standby: Replica, instance: Instance | None) -> Observed:
    sight = record_result(ctx, standby, classify(instance), MISSING_FOR)
    if sight is Observed.GONE:
        said = f"its instance is {instance.ec2_state if instance else 'not shown by EC2'}"
        move_checked(ctx, standby, ReplicaStatus.FAILED, said)
    return sight


def check_former_primaries(ctx: Context, former: Sequence[Replica]) -> str:
    known = ctx.ec2.instances([r.instance_id for r in former if r.instance_id])
    for replica in former:
        instance = known.get(replica.instance_id or "")
        # One that was stopped is its operator's still.
        is_kept = instance is not None and not instance.has_ended
        sight = Observed.RUNNING if is_kept else classify(instance)
        if record_result(ctx, replica, sight, FORGOTTEN_AFTER) is Observed.GONE:
            said = f"EC2 reports it {instance.ec2_state if instance else 'no more'}"
            move_checked(ctx, replica, ReplicaStatus.TERMINATED, said)
    return "looked after former primaries"


def record_result(ctx: Context, replica: Replica, sight: Observed, patience: timedelta) -> Observed:
    """Record a check; return GONE also when the instance was missing for `patience`."""
    return ctx.database.write(_record_result, ctx, replica, sight, patience)


def _record_result(
    connection: Connection, ctx: Context, replica: Replica, sight: Observed, patience: timedelta
) -> Observed:
    current = read_replica(connection, replica.id)
    if current is None or current.status is not replica.status:
        return sight  # another worker has moved it on since
    every = check_interval(ctx)
    return record_check(connection, current, sight, ctx.clock(), every=every, patience=patience)


def move_checked(
    ctx: Context, seen: Replica, status: ReplicaStatus, reason: str, calls: Calls | None = None
) -> None:
    """Move a replica that was checked, unless it has moved since."""
    ctx.database.write(move_checked_in, ctx, seen, status, reason, calls)


def move_checked_in(
    connection: Connection,
    ctx: Context,
    seen: Replica,
    status: ReplicaStatus,
    reason: str,
    calls: Calls | None = None,
) -> None:
    """Move a replica that was looked at, unless it has moved since."""
    severity: Severity = "warning" if status is ReplicaStatus.FAILED else "info"
    replica = read_replica(connection, seen.id)
    if (
        replica is not None
        and replica.status is seen.status
        and replica.instance_id == seen.instance_id
    ):
        now = ctx.clock()
        if status is ReplicaStatus.FAILED:
            cool_down_pool_of(connection, replica, "Vanished", now, ctx.settings)
        if replica.status is ReplicaStatus.PROMOTED and replica.instance_id is not None:
            # What it was launched for is long over: its end belongs to what it was lost by.
            lost_by = latest_incident(connection, replica.agent_id, replica.instance_id)
            replica = replace(replica, incident_id=lost_by.id if lost_by else None)
        move_replica(connection, replica, status, reason, now, severity=severity, calls=calls or ())


def unknown_state(standby: Replica) -> CloudError:
    said = f"EC2 does not tell whether {standby.instance_id} runs"
    return CloudError("IncompleteAnswer", said, Remedy.WAIT)
