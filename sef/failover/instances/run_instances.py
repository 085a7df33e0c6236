"""RunInstances: what EC2 is asked for, once or again, and writing down what it answers.

Attempts that wait for a token and differ in nothing but whose they are join one call. It is
committed before it is made, and its answer is written in one transaction for all of them, so that
whoever finds one of them can repeat it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import Connection, bindparam, select, update

from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, REPLICA_TAG
from sef.cloud.errors import QUOTA, THROTTLED, CloudError, Remedy
from sef.cloud.launch_parameters import batch_parameters
from sef.context import Context
from sef.db.tables import launch_attempts, replica_instances
from sef.failover.incidents.rows import Incident
from sef.failover.instances import attempts, rate_limit
from sef.failover.instances.attempts import Attempt, LaunchCall
from sef.failover.instances.rate_limit import KEPT_FOR_EMERGENCIES, RUN
from sef.failover.standbys import backoff
from sef.failover.standbys.backoff import RETRY_OPERATOR, fail_launch
from sef.failover.standbys.retirements import plan_retirement
from sef.failover.standbys.rows import change_replica, read_replica
from sef.notifications.events import Event, write_events
from sef.terms import ReplicaStatus

log = logging.getLogger("sef")

REPEATED_AFTER = timedelta(seconds=1)
"""An attempt that is older has most likely been called before."""

CALL_TIMEOUT = timedelta(seconds=3)
"""So long a call for several is left to the one who makes it: the others find its answer."""

NOT_GRANTED = "NotGranted"
"""EC2 launched fewer instances than it was asked for: there was no room for this one."""


class AlreadyCalled(Exception):
    """Another worker makes the call, or has: the token that was taken for it is given back."""


@dataclass(frozen=True, slots=True)
class UntaggedInstance:
    """An instance that does not have the tags of its agent yet."""

    client_token: str
    replica_id: str
    agent_id: str
    instance_id: str


def make_call(ctx: Context, attempt: Attempt, incident: Incident | None = None) -> str | None:
    """Make, or repeat, the call of an open attempt and write down EC2's answer.

    None while there is no token for the call, others need it more, or another worker makes it.

    Raises:
        CloudError: what came of it is not known; the call is to be repeated.
    """
    call = _begin_call(ctx, attempt, incident)
    if call is None:
        return None
    where = f"{attempt.market} in {attempt.pool_id}"
    try:
        found = _run_instances(ctx, call, attempt)
    except CloudError as error:
        if error.code in THROTTLED:
            rate_limit.drain(ctx, RUN)
        if error.remedy is Remedy.WAIT:
            raise
        refusal = error
        ctx.database.write(_record_refusal, ctx, call, refusal)
        return f"EC2 refused {where}: {error.code}"
    ctx.database.write(_record_launched, ctx, call, found)
    return f"launched {', '.join(found)}, {where}"


def tag_instances(ctx: Context, instances: Sequence[UntaggedInstance]) -> None:
    """Give instances the tags of their agents.

    EC2 that does not let it, or does not know one of them yet, holds up nothing: it stays to be
    done.
    """
    for instance in instances:
        tags = {
            AGENT_TAG: instance.agent_id,
            REPLICA_TAG: instance.replica_id,
            ATTEMPT_TAG: instance.client_token,
        }
        try:
            ctx.ec2.tag(instance.instance_id, tags)
        except CloudError as error:
            log.warning("SEF: %s has no tags of its own yet: %s", instance.instance_id, error)
            continue
        token = instance.client_token
        ctx.database.write(record_tagged, token, ctx.clock())


def tag_remaining(ctx: Context) -> None:
    """Tag what could not be tagged while its agent was worked on."""
    tag_instances(ctx, ctx.database.read(untagged_instances))


def _begin_call(ctx: Context, attempt: Attempt, incident: Incident | None) -> LaunchCall | None:
    """Take a request token for the call of an attempt and commit to the call.

    None while there is no token, tokens are reserved for calls with a closer deadline, or another
    worker makes the call.
    """
    call = ctx.database.read(attempts.call_of, attempt)
    if call.made_at is not None:
        # A time in the future was written by a worker whose clock is ahead.
        ago = ctx.clock() - call.made_at
        if timedelta(0) <= ago < CALL_TIMEOUT:
            return None
    deadline, reserve = None, KEPT_FOR_EMERGENCIES
    if incident is not None and incident.is_emergency:
        deadline, reserve = incident.deadline, 0

    def reserved(connection: Connection) -> int:
        return reserve + attempts.emergencies_waiting(
            connection, deadline, other_than=attempt.launch_fingerprint
        )

    # A read first: most of the attempts that have to wait need not write to learn it.
    if not ctx.database.read(rate_limit.may_launch, ctx, reserved):
        return None
    try:
        return ctx.database.write(_commit_to_call, ctx, attempt, call, reserved)
    except AlreadyCalled:
        return None


def _commit_to_call(
    connection: Connection,
    ctx: Context,
    attempt: Attempt,
    call: LaunchCall,
    reserved: rate_limit.Reserve,
) -> LaunchCall | None:
    """Take a token and record the call, joined by the attempts that have equal parameters.

    Raises:
        AlreadyCalled: another worker makes the call, or has made it; the token is not taken.
    """
    if not rate_limit.take_launch_token(connection, ctx, reserved):
        return None
    now = ctx.clock()
    # Where calls are not limited, each attempt is called at once, so none has to wait for others.
    joins = attempt.calls == 0 and rate_limit.is_limited(ctx, RUN)
    others = attempts.joinable_attempts(connection, attempt) if joins else ()
    if others:
        token = f"call-{uuid4().hex}"
        tokens = [attempt.client_token, *others]
        parameters = batch_parameters(attempt.parameters, token)
        return attempts.join_call(connection, tokens, token, parameters, now)
    if not attempts.record_call(connection, call, now):
        raise AlreadyCalled
    return call


def _run_instances(ctx: Context, call: LaunchCall, attempt: Attempt) -> Sequence[str]:
    try:
        found = ctx.ec2.run_several(call.parameters, call.client_token, call.size)
    except CloudError as error:
        is_repeat = ctx.clock() - attempt.created_at >= REPEATED_AFTER
        if error.remedy is Remedy.WAIT or not (is_repeat or error.remedy is Remedy.NEW_TOKEN):
            raise
        # The token is spent, or a call before this one may have been done all the same: what
        # it launched, if anything, carries its tag.
        found = [instance.id for instance in ctx.ec2.launched_by(call.client_token)]
        if not found:
            raise
    # In one order, whoever asks: two workers give the same instances to the same agents.
    return sorted(found)


def _record_launched(
    connection: Connection, ctx: Context, call: LaunchCall, found: Sequence[str]
) -> None:
    now = ctx.clock()
    members = attempts.attempts_of_call(connection, call)
    taken = {member.instance_id for member in members}
    is_answered = all(member.status != "open" for member in members)
    if not is_answered:
        for member, instance_id in zip(members, found, strict=False):
            token = member.client_token
            attempts.close_attempt(connection, token, now, instance_id=instance_id)
            taken.add(instance_id)
            replica = read_replica(connection, member.replica_id)
            # Also of a replica that was released meanwhile: its instance is to be terminated.
            if replica is not None:
                change_replica(connection, replica, instance_id=instance_id, launched_at=now)
        told = f"EC2 launched {len(found)} of {call.size} instances."
        lacking = CloudError(NOT_GRANTED, told, Remedy.NEXT_POOL)
        _refuse_attempts(connection, ctx, members[len(found) :], call, lacking)
    # The same call was refused to another worker, whose agents have gone on to other pools.
    reason = f"launched by {call.client_token} after that was refused"
    replica = read_replica(connection, members[0].replica_id)
    for instance_id in found:
        if instance_id not in taken and replica is not None:
            plan_retirement(
                connection, replica.agent_id, instance_id, reason, now, replica.incident_id
            )


def _record_refusal(
    connection: Connection, ctx: Context, call: LaunchCall, error: CloudError
) -> None:
    members = attempts.attempts_of_call(connection, call)
    if any(member.status == "open" for member in members):
        _refuse_attempts(connection, ctx, members, call, error)


def _refuse_attempts(
    connection: Connection,
    ctx: Context,
    members: Sequence[Attempt],
    call: LaunchCall,
    error: CloudError,
) -> None:
    now = ctx.clock()
    needs_operator = error.remedy is Remedy.OPERATOR
    for member in members:
        attempts.close_attempt(connection, member.client_token, now, error_code=error.code)
        replica = read_replica(connection, member.replica_id)
        if replica is None:
            continue
        details = {
            "replica_id": replica.id,
            "token": member.client_token,
            "code": error.code,
            "next": error.remedy,
            "ms": round((now - member.created_at) / timedelta(milliseconds=1)),
        }
        together = f", one of {call.size}" if call.size > 1 else ""
        event = Event(
            "launch_refused",
            f"EC2 refused {member.market} in {member.pool_id}{together}: {error}",
            replica.agent_id,
            "error" if needs_operator else "warning",
            details | ({"one_of": call.size} if call.size > 1 else {}),
            replica.incident_id,
        )
        write_events(connection, [event], now)
        if needs_operator and replica.status is ReplicaStatus.LAUNCHING:
            fail_launch(connection, replica, f"EC2 refuses: {error.code}", RETRY_OPERATOR, now)
    is_too_many = call.size > 1 and error.code in QUOTA
    if error.remedy is Remedy.NEXT_POOL and members and not is_too_many:
        pool_id, market = members[0].pool_id, members[0].market
        pause = timedelta(seconds=ctx.settings.pool_cooldown_seconds)
        backoff.cool_down_pool(connection, pool_id, market, error.code, now, pause)
        attempts.cancel_unsent_in_pool(connection, pool_id, market, error.code, now)


_UNTAGGED = (
    select(
        launch_attempts.c.client_token,
        launch_attempts.c.replica_id,
        replica_instances.c.agent_id,
        replica_instances.c.instance_id,
    )
    .join(replica_instances, replica_instances.c.id == launch_attempts.c.replica_id)
    .where(
        launch_attempts.c.call_token.is_not(None),
        launch_attempts.c.tagged_at.is_(None),
        launch_attempts.c.status == "launched",
        replica_instances.c.instance_id == launch_attempts.c.instance_id,
        replica_instances.c.status.in_(
            [ReplicaStatus.LAUNCHING, ReplicaStatus.READY, ReplicaStatus.PROMOTED]
        ),
    )
)
_UNTAGGED_OF_ONE = _UNTAGGED.where(replica_instances.c.agent_id == bindparam("agent"))


def untagged_instances(
    connection: Connection, agent_id: str | None = None
) -> Sequence[UntaggedInstance]:
    """Instances that were launched with others and do not have their agent's tags yet."""
    statement = _UNTAGGED if agent_id is None else _UNTAGGED_OF_ONE
    rows = connection.execute(statement, {} if agent_id is None else {"agent": agent_id})
    return [UntaggedInstance(**row._mapping) for row in rows]


def record_tagged(connection: Connection, token: str, now: datetime) -> None:
    columns = launch_attempts.c
    connection.execute(
        update(launch_attempts)
        .where(columns.client_token == token, columns.tagged_at.is_(None))
        .values(tagged_at=now)
    )
