"""Wait until the instance of a launch runs, and record the result.

If the instance ends, stays missing or does not run in time, fail or release its replica. If it runs
after a notice for it, release it too.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection

from sef.context import Context
from sef.failover.incidents.rows import latest_incident, open_incident, update_incident
from sef.failover.instances.attempts import Attempt
from sef.failover.instances.attributes import set_attributes, unset_attributes
from sef.failover.instances.relief import take_over
from sef.failover.standbys.backoff import RETRY_EMERGENCY, cool_down_pool_of, escalate, fail_launch
from sef.failover.standbys.rows import Replica, move_replica, read_replica
from sef.failover.standbys.watch import NEW_MISSING_FOR, Observed, check_interval, record_check
from sef.terms import IncidentStatus, ReplicaStatus


def await_running(ctx: Context, replica: Replica, attempts: Sequence[Attempt]) -> str | None:
    """Ask EC2 for a launched instance, and record that it runs, has ended or is late.

    Return a sentence, or None if SEF can only wait. Attributes that RunInstances cannot set are set
    before the instance becomes a standby.

    Raises:
        CloudError: EC2 did not return a usable answer.
    """
    assert replica.instance_id is not None
    assert replica.launched_at is not None
    age = ctx.clock() - replica.launched_at
    instance = ctx.ec2.instances([replica.instance_id]).get(replica.instance_id)
    if instance is None:
        return ctx.database.write(_record_missing, ctx, replica)
    if instance.is_gone:
        return ctx.database.write(
            _fail_ended, ctx, replica, f"its instance is {instance.ec2_state}"
        )
    if instance.ec2_state == "running":
        if any(attempt.attributes and not attempt.attributes_set_at for attempt in attempts):
            set_attributes(ctx, ctx.database.read(unset_attributes, replica.agent_id))
        pool_id = str(instance.pool) if instance.pool else str(replica.pool_id)
        return ctx.database.write(mark_ready, ctx, replica, pool_id)
    if age >= timedelta(seconds=ctx.settings.launch_timeout_seconds):
        reason = f"not running after {ctx.settings.launch_timeout_seconds:.0f} s"
        return ctx.database.write(_release_late, ctx, replica, reason)
    return None


def _record_missing(connection: Connection, ctx: Context, replica: Replica) -> str | None:
    """Record that an answer of EC2 lacks the instance; release it after `NEW_MISSING_FOR`.

    The instance may run all the same. SEF terminates the instance of a released replica; it would
    not terminate that of a failed replica.
    """
    current = read_replica(connection, replica.id)
    if current != replica:
        return None
    observed = record_check(
        connection,
        current,
        Observed.MISSING,
        ctx.clock(),
        every=check_interval(ctx),
        patience=NEW_MISSING_FOR,
    )
    if observed is not Observed.GONE:
        return None
    # `record_check` has changed the row.
    current = read_replica(connection, replica.id)
    assert current is not None
    return _release_late(connection, ctx, current, "EC2 still does not show it")


def _release_late(
    connection: Connection, ctx: Context, replica: Replica, reason: str
) -> str | None:
    """Release a replica that does not run in time; None if another worker has changed it."""
    if read_replica(connection, replica.id) != replica:
        return None
    now = ctx.clock()
    cool_down_pool_of(connection, replica, "TooSlow", now, ctx.settings)
    move_replica(connection, replica, ReplicaStatus.RELEASING, reason, now, severity="warning")
    escalate(connection, replica.agent_id, reason, now)
    return reason


def _fail_ended(connection: Connection, ctx: Context, replica: Replica, reason: str) -> str | None:
    """Fail a launching replica whose instance has ended."""
    cool_down_pool_of(connection, replica, "DiedWhileLaunching", ctx.clock(), ctx.settings)
    return fail_launch(connection, replica, reason, RETRY_EMERGENCY, ctx.clock())


def mark_ready(connection: Connection, ctx: Context, replica: Replica, pool_id: str) -> str | None:
    """Record that a launched instance runs; None if another worker has changed the replica.

    If AWS has sent a notice for this instance meanwhile, release the replica. A recommendation is
    recorded: SEF launches a relief. A relief that runs takes the place of its standby.
    """
    if read_replica(connection, replica.id) != replica:
        return None
    now = ctx.clock()
    # A signal can arrive before SEF knows which replica the instance belongs to.
    signalled = latest_incident(connection, replica.agent_id, str(replica.instance_id))
    if signalled is not None and signalled.termination_at is not None:
        reason = "AWS announced its interruption while it was launching"
        cool_down_pool_of(connection, replica, "Signalled", now, ctx.settings)
        move_replica(connection, replica, ReplicaStatus.RELEASING, reason, now, severity="warning")
        return reason
    seconds = (now - replica.created_at).total_seconds()
    reason = f"runs in {pool_id} after {seconds:.1f} s"
    recommended_at = replica.recommended_at or (signalled.rebalance_at if signalled else None)
    if replica.relief_agent_id is not None:
        replica = take_over(connection, replica, now)
    move_replica(
        connection,
        replica,
        ReplicaStatus.READY,
        reason,
        now,
        pool_id=pool_id,
        checked_at=now,
        recommended_at=recommended_at,
    )
    incident = open_incident(connection, replica.agent_id)
    if incident is not None and incident.status is IncidentStatus.NEEDS_OPERATOR:
        update_incident(connection, incident, status=IncidentStatus.OPEN)
    return reason
