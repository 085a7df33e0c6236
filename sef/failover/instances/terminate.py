"""Ending instances that are not wanted any more: released standbys and former primaries."""

from dataclasses import replace

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.cloud.ec2 import AGENT_TAG, MANAGED_TAG, Calls, timed
from sef.cloud.errors import THROTTLED, CloudError, Remedy
from sef.context import Context
from sef.db.leases import deployment_name
from sef.failover.instances import attempts, rate_limit, run_instances
from sef.failover.instances.limits import TerminationBudget
from sef.failover.instances.rate_limit import TERMINATE
from sef.failover.standbys import watch
from sef.failover.standbys.retirements import Retirement, finish_retirement, postpone_retirement
from sef.failover.standbys.rows import Replica, move_replica, replica_of_instance
from sef.failover.standbys.watch import MISSING_FOR, Observed
from sef.notifications.events import Event, Severity, write_events
from sef.terms import ReplicaStatus

NOT_SHOWN = "EC2 does not show it"


def release_standby(ctx: Context, replica: Replica, budget: TerminationBudget) -> str | None:
    tries = ctx.database.read(attempts.attempts_of, replica.id)
    if tries and tries[-1].status == "open":
        attempt = tries[-1]
        now = ctx.clock()
        if ctx.database.write(attempts.cancel_unsent, attempt.client_token, "Released", now):
            return "what was not wanted any more was not launched"
        # Whether it launched anything is unknown. Repeating the call is the one sure way to
        # learn the instance's id: a look-up by tag can miss what EC2 has just launched.
        return run_instances.make_call(ctx, attempt)
    instance_id = replica.instance_id
    calls: Calls = []
    if instance_id is not None:
        if not (budget.take(instance_id) and rate_limit.take_termination_token(ctx)):
            return None
        if (
            not _terminate(ctx, instance_id, calls)
            # EC2 may not know it yet: its end has to be heard of, or it would run for ever.
            and watch.record_result(ctx, replica, Observed.MISSING, MISSING_FOR)
            is not Observed.GONE
        ):
            return f"EC2 does not know {instance_id} yet, or any more"
    said = "released" if instance_id else "released before anything was launched"
    watch.move_checked(ctx, replica, ReplicaStatus.TERMINATED, said, calls)
    return said


def terminate_former_primary(
    ctx: Context, retirement: Retirement, budget: TerminationBudget
) -> str | None:
    agent_id, instance_id = retirement.agent_id, retirement.instance_id
    calls: Calls = []
    agent = ctx.database.read(read_agent, agent_id)
    if agent.instance_id == instance_id:
        obstacle: str | None = "it is the primary again"
    else:
        obstacle = _obstacle(ctx, agent_id, instance_id, calls)
        if obstacle is None and not (
            budget.take(instance_id) and rate_limit.take_termination_token(ctx)
        ):
            return None
        is_unknown = obstacle == NOT_SHOWN or (
            obstacle is None and not _terminate(ctx, instance_id, calls)
        )
        if is_unknown and (retirement.missed_checks + 1) * watch.check_interval(ctx) < MISSING_FOR:
            until = ctx.clock() + watch.check_interval(ctx)
            ctx.database.write(postpone_retirement, retirement, until)
            return f"EC2 does not know {instance_id} yet, or any more"
    if obstacle is None:
        said = f"terminated the former primary {instance_id}"
    else:
        said = f"{instance_id} is left running: {obstacle}"

    ctx.database.write(_record_end, ctx, retirement, said, obstacle, calls)
    return said


def _record_end(
    connection: Connection,
    ctx: Context,
    retirement: Retirement,
    said: str,
    obstacle: str | None,
    calls: Calls,
) -> None:
    """Record that a former primary is terminated, or why it is left running."""
    now = ctx.clock()
    instance_id = retirement.instance_id
    if not finish_retirement(connection, instance_id, now, obstacle=obstacle):
        return
    severity: Severity = "warning" if obstacle else "info"
    event = Event(
        "primary_retired",
        said,
        retirement.agent_id,
        severity,
        {"instance_id": instance_id, "calls": calls},
        retirement.incident_id,
    )
    write_events(connection, [event], now)
    replica = replica_of_instance(connection, instance_id)
    if replica is None or replica.status is not ReplicaStatus.PROMOTED or obstacle is not None:
        return
    # Attribute the termination to the incident that caused it, not to the one that launched it.
    ended = replace(replica, incident_id=retirement.incident_id)
    move_replica(connection, ended, ReplicaStatus.TERMINATED, retirement.reason, now)


def _terminate(ctx: Context, instance_id: str, calls: Calls) -> bool:
    """False when EC2 does not know it, yet or any more."""
    terminate = ctx.ec2.terminate
    try:
        return timed(calls, TERMINATE, instance_id, lambda: terminate(instance_id))
    except CloudError as error:
        if error.code in THROTTLED:
            rate_limit.drain(ctx, TERMINATE)
        raise


def _obstacle(ctx: Context, agent_id: str, instance_id: str, calls: Calls) -> str | None:
    """Why a former primary must not be terminated; None if it may. Calls made are added.

    Only what carries this SEF's tags is terminated. What SEF has launched does. An instance
    that was registered is given them now, unless it belongs to somebody else by its tags.
    """
    if ctx.database.read(replica_of_instance, instance_id) is not None:
        return None
    name = ctx.database.write(deployment_name)
    instance = ctx.ec2.instances([instance_id]).get(instance_id)
    if instance is None:
        return NOT_SHOWN
    if instance.has_ended:
        return None
    if not instance.tags and ctx.ec2.has_tag(instance_id, MANAGED_TAG):
        raise CloudError("IncompleteAnswer", f"{instance_id} without its tags", Remedy.WAIT)
    ours = {MANAGED_TAG: name, AGENT_TAG: agent_id}
    for key, value in ours.items():
        if instance.tags.get(key, value) != value:
            return f"its tag {key} says {instance.tags[key]}, not {value}"
    try:
        timed(calls, "CreateTags", instance_id, lambda: ctx.ec2.tag(instance_id, ours))
    except CloudError as error:
        if error.remedy is not Remedy.OPERATOR:
            raise
        return f"EC2 does not let SEF tag it ({error.code}), and SEF terminates nothing untagged"
    return None
