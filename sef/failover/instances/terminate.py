"""Terminate instances that are no longer needed: released standbys and former primaries."""

from dataclasses import dataclass, replace

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.cloud.ec2 import AGENT_TAG, MANAGED_TAG, Calls, timed
from sef.cloud.errors import THROTTLED, CloudError, Remedy
from sef.context import Context
from sef.db.leases import deployment_name
from sef.failover.instances import rate_limit, run_instances
from sef.failover.instances.attempts import attempts_of, cancel_unsent
from sef.failover.instances.limits import TerminationBudget
from sef.failover.instances.rate_limit import TERMINATE
from sef.failover.standbys import watch
from sef.failover.standbys.retirements import Retirement, finish_retirement, postpone_retirement
from sef.failover.standbys.rows import Replica, move_replica, replica_of_instance
from sef.failover.standbys.watch import MISSING_FOR, Observed
from sef.notifications.events import Event, write_events
from sef.terms import ReplicaStatus


@dataclass(frozen=True, slots=True)
class _Permission:
    """Result of checking that SEF may terminate a former primary.

    Attributes:
        obstacle: the reason why the instance must stay running; None if SEF may terminate it.
        is_missing: the obstacle is that EC2's answer lacks the instance; a later one may have it.
    """

    obstacle: str | None = None
    is_missing: bool = False


_MAY_TERMINATE = _Permission()
_MISSING = _Permission("EC2 does not show it", is_missing=True)


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
    if not _may_call(ctx, budget, instance_id):
        return None
    calls: Calls = []
    # EC2 may not know a new instance yet. Without further attempts, the instance would run forever.
    if not _terminate(ctx, instance_id, calls) and not _record_missing(ctx, replica):
        return _unknown_instance(instance_id)
    watch.move_checked(ctx, replica, ReplicaStatus.TERMINATED, "released", calls)
    return "released"


def terminate_former_primary(
    ctx: Context, retirement: Retirement, budget: TerminationBudget
) -> str | None:
    """Terminate a former primary, or record why it is left running; return a sentence about it.

    1. Check that SEF may terminate the instance, and give it SEF's tags.
    2. Take a termination from the budget of this pass and a request token.
    3. Terminate it. If EC2 does not know the instance, retry until it was missing for long enough.
    4. Record the result.

    None if the termination waits for the budget or for a request token.

    Raises:
        CloudError: EC2 did not return a usable answer; a later pass repeats the step.
    """
    instance_id = retirement.instance_id
    calls: Calls = []
    permission = _check_permission(ctx, retirement, calls)
    if permission.obstacle is None:
        if not _may_call(ctx, budget, instance_id):
            return None
        is_known = _terminate(ctx, instance_id, calls)
    else:
        is_known = not permission.is_missing
    interval = watch.check_interval(ctx)
    if not is_known and (retirement.missed_checks + 1) * interval < MISSING_FOR:
        ctx.database.write(postpone_retirement, retirement, ctx.clock() + interval)
        return _unknown_instance(instance_id)
    if permission.obstacle is None:
        message = f"terminated the former primary {instance_id}"
    else:
        message = f"{instance_id} is left running: {permission.obstacle}"
    ctx.database.write(_record_end, ctx, retirement, message, permission.obstacle, calls)
    return message


def _check_permission(ctx: Context, retirement: Retirement, calls: Calls) -> _Permission:
    """Check that SEF may terminate a former primary; add calls made to `calls`.

    SEF terminates only instances with its own tags. An instance that SEF launched has them. A
    registered instance receives them here, unless its tags name another SEF or another agent.
    """
    agent_id, instance_id = retirement.agent_id, retirement.instance_id
    if ctx.database.read(read_agent, agent_id).instance_id == instance_id:
        return _Permission("it is the primary again")
    if ctx.database.read(replica_of_instance, instance_id) is not None:
        return _MAY_TERMINATE
    deployment = ctx.database.write(deployment_name)
    instance = ctx.ec2.instances([instance_id]).get(instance_id)
    if instance is None:
        return _MISSING
    if instance.has_ended:
        return _MAY_TERMINATE
    if not instance.tags and ctx.ec2.has_tag(instance_id, MANAGED_TAG):
        message = f"EC2 returned {instance_id} without its tags"
        raise CloudError("IncompleteAnswer", message, Remedy.WAIT)
    tags = {MANAGED_TAG: deployment, AGENT_TAG: agent_id}
    for key, value in tags.items():
        if instance.tags.get(key, value) != value:
            return _Permission(f"its tag {key} is {instance.tags[key]}, expected {value}")
    try:
        timed(calls, "CreateTags", instance_id, lambda: ctx.ec2.tag(instance_id, tags))
    except CloudError as error:
        if error.remedy is not Remedy.OPERATOR:
            raise
        return _Permission(
            f"EC2 refused to tag it ({error.code}), and SEF terminates only tagged instances"
        )
    return _MAY_TERMINATE


def _may_call(ctx: Context, budget: TerminationBudget, instance_id: str) -> bool:
    """Take a termination from the budget, and a request token; return False without one."""
    return budget.take(instance_id) and rate_limit.take_termination_token(ctx)


def _terminate(ctx: Context, instance_id: str, calls: Calls) -> bool:
    """Terminate an instance; return False if EC2 does not know it: not yet, or no longer."""
    try:
        return timed(calls, TERMINATE, instance_id, lambda: ctx.ec2.terminate(instance_id))
    except CloudError as error:
        if error.code in THROTTLED:
            rate_limit.record_throttling(ctx, TERMINATE)
        raise


def _record_missing(ctx: Context, replica: Replica) -> bool:
    """Record that an instance is missing; return True if it was missing for `MISSING_FOR`."""
    observed = watch.record_result(ctx, replica, Observed.MISSING, MISSING_FOR)
    return observed is Observed.GONE


def _unknown_instance(instance_id: str) -> str:
    return f"EC2 does not know {instance_id}; SEF retries the termination"


def _record_end(
    connection: Connection,
    ctx: Context,
    retirement: Retirement,
    message: str,
    obstacle: str | None,
    calls: Calls,
) -> None:
    """Record that a former primary is terminated, or why it is left running."""
    now = ctx.clock()
    instance_id = retirement.instance_id
    if not finish_retirement(connection, instance_id, now, obstacle=obstacle):
        return
    event = Event(
        "primary_retired",
        message,
        agent_id=retirement.agent_id,
        severity="info" if obstacle is None else "warning",
        details={"instance_id": instance_id, "calls": calls},
        incident_id=retirement.incident_id,
    )
    write_events(connection, [event], now)
    replica = replica_of_instance(connection, instance_id)
    if replica is None or replica.status is not ReplicaStatus.PROMOTED or obstacle is not None:
        return
    # Attribute the termination to the incident that caused it, not to the incident for which the
    # instance was launched.
    ended = replace(replica, incident_id=retirement.incident_id)
    move_replica(connection, ended, ReplicaStatus.TERMINATED, retirement.reason, now)
