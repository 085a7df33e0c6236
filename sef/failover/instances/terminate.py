"""Terminate instances in EC2, and the instances of released standbys."""

from datetime import datetime

from sqlalchemy import Connection

from sef.cloud.ec2 import Calls, timed
from sef.cloud.errors import THROTTLED, CloudError, Remedy
from sef.context import Context
from sef.failover.instances import rate_limit, run_instances
from sef.failover.instances.attempts import attempts_of, cancel_unsent
from sef.failover.instances.limits import TerminationBudget
from sef.failover.instances.rate_limit import TERMINATE
from sef.failover.standbys import watch
from sef.failover.standbys.rows import Replica, change_replica, read_replica
from sef.failover.standbys.watch import MISSING_FOR, Observed
from sef.terms import ReplicaStatus


def release_standby(ctx: Context, replica: Replica, budget: TerminationBudget) -> str | None:
    """Terminate the instance of a releasing replica, and return a sentence about it.

    None if the termination waits for the budget of this pass or for a request token.

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
