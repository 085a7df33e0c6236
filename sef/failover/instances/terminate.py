"""Terminate instances in EC2, and the instances of released standbys."""

from datetime import datetime

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.cloud.ec2 import Calls, timed
from sef.cloud.errors import THROTTLED, CloudError, Remedy
from sef.context import Context
from sef.failover.instances import rate_limit, run_instances
from sef.failover.instances.attempts import attempts_of, cancel_unsent
from sef.failover.instances.ending import obstacle_of_spare, with_way
from sef.failover.instances.limits import TerminationBudget
from sef.failover.instances.rate_limit import TERMINATE
from sef.failover.standbys import watch
from sef.failover.standbys.retirements import plan_retirement, read_retirement
from sef.failover.standbys.rows import Replica, change_replica, read_replica
from sef.failover.standbys.watch import MISSING_FOR, Observed
from sef.notifications.events import Event, write_events
from sef.terms import NotificationKind, ReplicaStatus


def release_standby(ctx: Context, replica: Replica, budget: TerminationBudget) -> str | None:
    """Terminate the instance of a releasing replica, and return a sentence about it.

    None if the termination waits for the budget of this pass or for a request token. A standby with
    which a target would be lost is kept, like a former primary.

    Raises:
        CloudError: EC2 did not confirm the termination; a later pass repeats it.
    """
    attempts = ctx.database.read(attempts_of, replica.id)
    if attempts and attempts[-1].status == "open":
        attempt = attempts[-1]
        now = ctx.clock()
        if ctx.database.write(cancel_unsent, attempt.client_token, "Released", now):
            return "cancelled a launch before its call"
        # The call may have launched an instance. Only repeating the call is certain to return its
        # id: a look-up by tag can miss an instance that EC2 has just launched.
        return run_instances.make_call(ctx, attempt)
    instance_id = replica.instance_id
    if instance_id is None:
        reason = "released before anything was launched"
        watch.move_checked(ctx, replica, ReplicaStatus.TERMINATED, reason)
        return reason
    if ctx.database.read(read_retirement, instance_id) is not None:
        return None  # it was kept for what it holds: `retire` looks after it
    if replica.call_at is None:
        agent = ctx.database.read(read_agent, replica.agent_id)
        kept = obstacle_of_spare(ctx, instance_id, agent)
        if kept is not None:
            kept = with_way(kept, agent.id, instance_id)
            ctx.database.write(_keep_standby, ctx, replica, kept)
            return f"{instance_id} is left running: {kept}"
    if not may_terminate(ctx, budget, instance_id):
        return None
    committed = ctx.database.write(_commit_to_release, replica, ctx.clock())
    if committed is None:
        return None
    replica = committed
    calls: Calls = []
    # EC2 may not know a new instance yet. Without further attempts, the instance would run forever.
    try:
        is_known = terminate(ctx, instance_id, calls)
    except CloudError as error:
        if error.remedy is Remedy.OPERATOR or error.code in THROTTLED:
            ctx.database.write(_withdraw_release, replica)
        raise
    if not is_known and not _record_missing(ctx, replica):
        return unknown_instance(instance_id)
    watch.move_checked(ctx, replica, ReplicaStatus.TERMINATED, "released", calls)
    return "released"


def may_terminate(ctx: Context, budget: TerminationBudget, instance_id: str) -> bool:
    """Take a termination from the budget, and a request token; return False without one."""
    return budget.take(instance_id) and rate_limit.take_termination_token(ctx)


def terminate(ctx: Context, instance_id: str, calls: Calls) -> bool:
    """Terminate an instance; return False if EC2 does not know it: not yet, or no longer."""
    try:
        return timed(calls, TERMINATE, instance_id, lambda: ctx.ec2.terminate(instance_id))
    except CloudError as error:
        if error.code in THROTTLED:
            rate_limit.record_throttling(ctx, TERMINATE)
        raise


def unknown_instance(instance_id: str) -> str:
    return f"EC2 does not know {instance_id}; SEF retries the termination"


def _keep_standby(connection: Connection, ctx: Context, replica: Replica, kept: str) -> None:
    """Retire a released standby that must not end, so that the status shows it with the reason."""
    current = read_replica(connection, replica.id)
    if current is None or current.status is not ReplicaStatus.RELEASING:
        return
    now, instance_id = ctx.clock(), str(current.instance_id)
    plan_retirement(
        connection,
        current.agent_id,
        instance_id,
        current.reason,
        now,
        terminate_after=now,
        was_primary=False,
        pool_id=current.pool_id,
        market=current.market,
        incident_id=current.incident_id,
        kept_because=kept,
    )
    event = Event(
        "standby_kept",
        f"{instance_id} is no longer needed and is left running: {kept}",
        agent_id=current.agent_id,
        severity="warning",
        details={"instance_id": instance_id},
        incident_id=current.incident_id,
        notification=NotificationKind.ALERT,
        matter=(instance_id, kept),
    )
    write_events(connection, [event], now)


def _commit_to_release(connection: Connection, replica: Replica, now: datetime) -> Replica | None:
    """Commit to terminate a standby; None if an operator has named it as a primary meanwhile."""
    current = read_replica(connection, replica.id)
    if current is None or current.status is not ReplicaStatus.RELEASING:
        return None
    if current.call_at is None:
        change_replica(connection, current, call_at=now)
        current = read_replica(connection, replica.id)
    return current


def _withdraw_release(connection: Connection, replica: Replica) -> None:
    """Record that EC2 refused the call: the standby runs on."""
    current = read_replica(connection, replica.id)
    if current is not None and current.status is ReplicaStatus.RELEASING:
        change_replica(connection, current, call_at=None)


def _record_missing(ctx: Context, replica: Replica) -> bool:
    """Record that an instance is missing; return True if it was missing for `MISSING_FOR`."""
    observed = watch.record_result(ctx, replica, Observed.MISSING, MISSING_FOR)
    return observed is Observed.GONE
