"""Terminate the instances that an agent no longer needs: former primaries and surplus instances."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.agents import Agent, read_agent
from sef.cloud.ec2 import AGENT_TAG, MANAGED_TAG, Calls, Instance, timed
from sef.cloud.errors import THROTTLED, CloudError, Remedy
from sef.context import Context
from sef.db.leases import deployment_name
from sef.failover.cutover.holders import holders_of
from sef.failover.cutover.rows import open_cutover
from sef.failover.incidents.rows import open_incident
from sef.failover.instances.draining import deregistered_groups, remaining_traffic
from sef.failover.instances.ending import cancel_request, obstacle, with_way
from sef.failover.instances.limits import TerminationBudget
from sef.failover.instances.retired import describe_end, record_end, write_retired
from sef.failover.instances.terminate import may_terminate, terminate, unknown_instance
from sef.failover.retention import CloudFacts, RowFacts, kept_by_cloud, kept_by_rows
from sef.failover.standbys import watch
from sef.failover.standbys.retirements import (
    Retirement,
    agent_with_primary,
    change_retirement,
    is_end_ordered,
    read_retirement,
)
from sef.failover.standbys.rows import replica_of_instance
from sef.failover.standbys.watch import MISSING_FOR
from sef.terms import NotificationKind

RECHECK = timedelta(seconds=10)
"""Time until SEF looks again at AWS for an instance that it keeps."""

RETRY_OBSTACLE = timedelta(minutes=5)
"""Time until SEF tries again to terminate an instance that it is not allowed to terminate."""


@dataclass(frozen=True, slots=True)
class _Permission:
    """Result of checking that SEF may terminate a former primary.

    Attributes:
        obstacle: the reason why the instance must stay running; None if SEF may terminate it.
        is_missing: the obstacle is that EC2's answer lacks the instance; a later one may have it.
        is_told: people are told of the obstacle.
    """

    obstacle: str | None = None
    is_missing: bool = False
    is_told: bool = False


@dataclass(frozen=True, slots=True)
class _Kept:
    """A reason in AWS to keep an instance, and the time until SEF looks again."""

    reason: str
    retry_after: timedelta = RECHECK


_MAY_TERMINATE = _Permission()
_MISSING = _Permission("EC2 does not show it", is_missing=True)


def terminate_retired(
    ctx: Context, retirement: Retirement, budget: TerminationBudget
) -> str | None:
    """Terminate an instance that its agent no longer needs; return a sentence about it.

    1. Find the reasons to keep it, first in the rows, then in AWS (`sef.failover.retention`).
    2. Check that nothing would be lost with it or launched in its place
       (`sef.failover.instances.ending`), that SEF may terminate it, and give it SEF's tags.
    3. Take a termination from the budget of this pass and a request token.
    4. Commit to the termination, unless a reason to keep it has appeared meanwhile.
    5. Cancel its persistent spot request, terminate it, and record that it has ended. If EC2 does
       not know it, retry until it was missing for long enough.

    None if it is kept, or if the termination waits for the budget or for a request token.

    Raises:
        CloudError: EC2 did not return a usable answer; a later pass repeats the step.
    """
    decision = ctx.database.read(_kept_by_rows, ctx, retirement)
    if isinstance(decision, str):
        _record_kept(ctx, retirement, decision)
        return None
    instance_id, primary = retirement.instance_id, str(decision.instance_id)
    calls: Calls = []
    instances = ctx.ec2.instances([instance_id, primary])
    instance = instances.get(instance_id)
    if instance is not None and instance.has_ended:
        message = describe_end(ctx, retirement, instance, calls)
        ctx.database.write(record_end, ctx, retirement, message, calls)
        return message
    kept = _kept_by_cloud(ctx, retirement, decision, instances.get(primary))
    if kept is not None:
        _record_kept(ctx, retirement, kept.reason, retry_after=kept.retry_after)
        return None
    permission = _check_permission(ctx, retirement, instance, calls)
    if permission.obstacle is not None and not permission.is_missing:
        return _leave_running(ctx, retirement, permission, calls)
    is_known = False
    if permission.obstacle is None:
        if not may_terminate(ctx, budget, instance_id):
            return None
        committed = ctx.database.write(_commit_to_terminate, ctx, retirement)
        if committed is None:
            return None
        retirement = committed
        refusal = None
        try:
            refusal = cancel_request(ctx, retirement.agent_id, instance, calls)
            if refusal is None:
                is_known = terminate(ctx, instance_id, calls)
        except CloudError as error:
            if error.remedy is Remedy.OPERATOR or error.code in THROTTLED:
                ctx.database.write(_withdraw, retirement)
            if error.remedy is not Remedy.OPERATOR:
                raise
            refused = _Permission(f"EC2 refused to end it: {error}")
            return _leave_running(ctx, retirement, refused, calls)
        if refusal is not None:
            ctx.database.write(_withdraw, retirement)
            return _leave_running(ctx, retirement, _Permission(refusal, is_told=True), calls)
    interval = watch.CHECK_MISSING_EVERY
    if not is_known and (retirement.missed_checks + 1) * interval < MISSING_FOR:
        ctx.database.write(_postpone, retirement, ctx.clock() + interval)
        return unknown_instance(instance_id)
    if permission.obstacle is None:
        message = f"terminated the former primary {instance_id}"
        ctx.database.write(record_end, ctx, retirement, message, calls)
        return message
    return _leave_running(ctx, retirement, permission, calls)


def _kept_by_rows(
    connection: Connection, ctx: Context, retirement: Retirement, *, lock: bool = False
) -> str | Agent:
    """Return the reason in the rows to keep an instance; without one, its agent."""
    agent = read_agent(connection, retirement.agent_id, lock=lock)
    incident = open_incident(connection, agent.id)
    cutover = open_cutover(connection, agent.id)
    replica = replica_of_instance(connection, retirement.instance_id)
    standby_of = replica.live_agent_id or replica.relief_agent_id if replica else None
    facts = RowFacts(
        terminate_after=retirement.terminate_after,
        primary_of=agent_with_primary(connection, retirement.instance_id),
        standby_of=standby_of,
        primary=agent.instance_id,
        has_emergency=incident is not None and incident.is_emergency,
        is_cutover_open=cutover is not None
        and cutover.old_instance_id == retirement.instance_id
        and cutover.traffic_moved_at is None,
        is_end_ordered=is_end_ordered(connection, retirement.instance_id),
    )
    return kept_by_rows(facts, ctx.clock()) or agent


def _kept_by_cloud(
    ctx: Context, retirement: Retirement, agent: Agent, primary: Instance | None
) -> _Kept | None:
    """Return the reason in AWS to keep an instance; None without a reason."""
    instance_id = retirement.instance_id
    held: Sequence[str] = ()
    unseen: Sequence[str] = ()
    is_ordered = ctx.database.read(is_end_ordered, instance_id)
    if agent.cutover is not None and not is_ordered:
        holders = holders_of(ctx, agent.cutover, {instance_id})
        left = ctx.database.read(deregistered_groups, agent) if holders.unknown() else set()
        held = holders.held_by(instance_id)
        unseen = [name for name in holders.unknown() if name not in left]
    facts = CloudFacts(
        primary=str(agent.instance_id),
        is_primary_running=primary is not None and primary.ec2_state == "running",
        held=held,
        unseen=unseen,
        is_end_ordered=is_ordered,
    )
    reason = kept_by_cloud(facts)
    if reason is not None:
        is_held = facts.is_primary_running
        return _Kept(with_way(reason, agent.id, instance_id) if is_held else reason)
    traffic = None if is_ordered else remaining_traffic(ctx, agent, instance_id)
    if traffic is None:
        return None
    until = traffic.until
    return _Kept(traffic.reason, RECHECK if until is None else until - ctx.clock())


def _record_kept(
    ctx: Context, retirement: Retirement, reason: str, *, retry_after: timedelta | None = None
) -> None:
    """Record why an instance is kept, if the reason is another one than before."""
    if retirement.kept_because == reason and retry_after is None:
        return
    not_before = None if retry_after is None else ctx.clock() + retry_after
    ctx.database.write(_write_kept, retirement, reason, not_before)


def _write_kept(
    connection: Connection, retirement: Retirement, reason: str, not_before: datetime | None
) -> None:
    current = read_retirement(connection, retirement.instance_id)
    if current is None or current.version != retirement.version:
        return  # another worker has changed it: the next pass decides again
    change_retirement(connection, current, kept_because=reason, not_before=not_before)


def _leave_running(
    ctx: Context, retirement: Retirement, permission: _Permission, calls: Calls
) -> str:
    """Record that SEF cannot terminate an instance; SEF tries again later."""
    message = f"{retirement.instance_id} is left running: {permission.obstacle}"
    ctx.database.write(_write_obstacle, ctx, retirement, permission, message, calls)
    return message


def _write_obstacle(
    connection: Connection,
    ctx: Context,
    retirement: Retirement,
    permission: _Permission,
    message: str,
    calls: Calls,
) -> None:
    current = read_retirement(connection, retirement.instance_id)
    if current is None or current.terminated_at is not None:
        return
    now = ctx.clock()
    is_told = current.kept_because == permission.obstacle
    change_retirement(
        connection,
        current,
        kept_because=permission.obstacle,
        not_before=now + RETRY_OBSTACLE,
        missed_checks=0,
    )
    if not is_told:
        notification = NotificationKind.ALERT if permission.is_told else None
        write_retired(connection, current, message, "warning", now, calls, notification)


def _check_permission(
    ctx: Context, retirement: Retirement, instance: Instance | None, calls: Calls
) -> _Permission:
    """Check that SEF may terminate a former primary; add calls made to `calls`.

    SEF terminates only instances with its own tags. An instance that SEF launched has them. A
    registered instance receives them here, unless its tags name another SEF or another agent.
    """
    agent_id, instance_id = retirement.agent_id, retirement.instance_id
    lost = None if instance is None else obstacle(ctx, instance)
    if lost is not None:
        return _Permission(with_way(lost, agent_id, instance_id), is_told=True)
    if ctx.database.read(replica_of_instance, instance_id) is not None:
        return _MAY_TERMINATE
    deployment = ctx.database.write(deployment_name)
    if instance is None:
        return _MISSING
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


def _commit_to_terminate(
    connection: Connection, ctx: Context, retirement: Retirement
) -> Retirement | None:
    """Commit to terminate an instance; None if the rows have a reason to keep it by now.

    From then on no operator can name it as a primary, and no promotion chooses it.
    """
    if isinstance(_kept_by_rows(connection, ctx, retirement, lock=True), str):
        return None
    current = read_retirement(connection, retirement.instance_id, lock=True)
    if current is None or current.version != retirement.version:
        return None
    change_retirement(connection, current, call_at=ctx.clock())
    return read_retirement(connection, retirement.instance_id)


def _withdraw(connection: Connection, retirement: Retirement) -> None:
    """Record that EC2 refused the call: the instance runs on, and may be needed again."""
    current = read_retirement(connection, retirement.instance_id)
    if current is not None and current.terminated_at is None:
        change_retirement(connection, current, call_at=None)


def _postpone(connection: Connection, retirement: Retirement, until: datetime) -> None:
    """Retry a termination later, because EC2 did not know the instance."""
    current = read_retirement(connection, retirement.instance_id)
    if current is not None and current.missed_checks == retirement.missed_checks:
        change_retirement(
            connection, current, not_before=until, missed_checks=current.missed_checks + 1
        )
