"""Make the RunInstances call of an open launch attempt, and record EC2's answer.

1. Take a request token. Without one, the attempt waits for a later pass.
2. Join the call with all other waiting attempts that have the same fingerprint: they differ only
   in their agents. One batched call launches an instance for each of them.
3. Commit the call, with its client token and parameters, before making it.
4. Make the call. After a crash or a lost answer, a worker that reads one of the attempts repeats
   the call with the same client token, and EC2 launches nothing twice.
5. Record the answer for all attempts of the call in one transaction: instances are assigned in the
   order of the deadlines, and the other attempts are refused.
6. Give the instances of a batched call the tags of their agents (`tag_instances`).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, bindparam, select, update

from sef.clock import milliseconds
from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, REPLICA_TAG
from sef.cloud.errors import QUOTA, THROTTLED, CloudError, Remedy
from sef.cloud.launch_parameters import batch_parameters
from sef.context import Context
from sef.db.tables import launch_attempts, replica_instances
from sef.failover.incidents.rows import Incident
from sef.failover.instances import calls, rate_limit
from sef.failover.instances.attempts import (
    MAY_SERVE,
    Attempt,
    cancel_unsent_in_pool,
    close_attempt,
    emergencies_waiting,
)
from sef.failover.instances.calls import LaunchCall
from sef.failover.instances.rate_limit import KEPT_FOR_EMERGENCIES, RUN
from sef.failover.standbys.backoff import RETRY_OPERATOR, cool_down_pool, fail_launch
from sef.failover.standbys.retirements import plan_retirement
from sef.failover.standbys.rows import Replica, change_replica, known_instances, read_replica
from sef.notifications.events import Event, write_events
from sef.terms import ReplicaStatus

log = logging.getLogger("sef")

REPEATED_AFTER = timedelta(seconds=1)
"""Age of an attempt from which SEF assumes that its call was made before."""

CALL_TIMEOUT = timedelta(seconds=3)
"""Time that other workers wait for an answer before they repeat a call themselves.

A repetition before it answers launches nothing more, and uses up a request token.
"""

NOT_GRANTED = "NotGranted"
"""Error code of an attempt for which a batched call launched no instance."""

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
        MAY_SERVE,
    )
)
_UNTAGGED_OF_AGENT = _UNTAGGED.where(replica_instances.c.agent_id == bindparam("agent"))


class AlreadyCalled(Exception):
    """Another worker makes the call, or has made it.

    Raised to roll back the transaction that took the request token.
    """


@dataclass(frozen=True, slots=True)
class UntaggedInstance:
    """An instance of a batched call that does not have the tags of its agent yet."""

    client_token: str
    replica_id: str
    agent_id: str
    instance_id: str


def make_call(ctx: Context, attempt: Attempt, incident: Incident | None = None) -> str | None:
    """Make or repeat the call of an open attempt, record EC2's answer, and return a sentence.

    None if there is no request token for the call, if more urgent calls need the tokens, or if
    another worker makes the call.

    Raises:
        CloudError: the effect of the call is unknown; a later pass repeats it.
    """
    call = _begin_call(ctx, attempt, incident)
    if call is None:
        return None
    place = f"{attempt.market} in {attempt.pool_id}"
    try:
        instance_ids = _run_instances(ctx, call, attempt)
    except CloudError as error:
        if error.code in THROTTLED:
            rate_limit.record_throttling(ctx, RUN)
        if error.remedy is Remedy.WAIT:
            raise
        ctx.database.write(_record_refusal, ctx, call, error)
        return f"EC2 refused {place}: {error.code}"
    ctx.database.write(_record_launched, ctx, call, instance_ids)
    return f"launched {', '.join(instance_ids)}, {place}"


def tag_instances(ctx: Context, instances: Sequence[UntaggedInstance]) -> None:
    """Give instances the tags of their agents.

    If EC2 refuses a tag or does not know an instance yet, the instance stays untagged until a
    later pass. No other work waits for the tags.
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
            log.warning("SEF: could not tag %s; SEF retries later: %s", instance.instance_id, error)
            continue
        ctx.database.write(record_tagged, instance.client_token, ctx.clock())


def tag_remaining(ctx: Context) -> None:
    """Tag the instances that no reconcile pass could tag."""
    tag_instances(ctx, ctx.database.read(untagged_instances))


def untagged_instances(
    connection: Connection, agent_id: str | None = None
) -> Sequence[UntaggedInstance]:
    """Return the instances of batched calls that do not have the tags of their agents yet.

    Args:
        agent_id: return only the instances of this agent; None: of all agents.
    """
    statement = _UNTAGGED if agent_id is None else _UNTAGGED_OF_AGENT
    rows = connection.execute(statement, {} if agent_id is None else {"agent": agent_id})
    return [UntaggedInstance(**row._mapping) for row in rows]


def record_tagged(connection: Connection, token: str, now: datetime) -> None:
    """Record that the instance of an attempt has the tags of its agent."""
    columns = launch_attempts.c
    connection.execute(
        update(launch_attempts)
        .where(columns.client_token == token, columns.tagged_at.is_(None))
        .values(tagged_at=now)
    )


def _begin_call(ctx: Context, attempt: Attempt, incident: Incident | None) -> LaunchCall | None:
    """Take a request token for the call of an attempt and commit to the call.

    None if there is no token, if the tokens are reserved for calls with a closer deadline, or if
    another worker makes the call.
    """
    call = ctx.database.read(calls.call_of, attempt)
    if call.made_at is not None:
        # A time in the future comes from a worker whose clock is ahead: do not wait for it.
        age = ctx.clock() - call.made_at
        if timedelta(0) <= age < CALL_TIMEOUT:
            return None
    deadline, kept = None, KEPT_FOR_EMERGENCIES
    if incident is not None and incident.is_emergency:
        deadline, kept = incident.deadline, 0
    reserve = partial(
        _reserved_tokens, kept=kept, deadline=deadline, fingerprint=attempt.launch_fingerprint
    )
    # Read before the write: most waiting attempts find no token, and a read is cheaper.
    if not ctx.database.read(rate_limit.may_launch, ctx, reserve):
        return None
    try:
        return ctx.database.write(_commit_to_call, ctx, attempt, call, reserve)
    except AlreadyCalled:
        return None


def _reserved_tokens(
    connection: Connection, *, kept: int, deadline: datetime | None, fingerprint: str
) -> int:
    return kept + emergencies_waiting(connection, deadline, other_than=fingerprint)


def _commit_to_call(
    connection: Connection,
    ctx: Context,
    attempt: Attempt,
    call: LaunchCall,
    reserve: rate_limit.Reserve,
) -> LaunchCall | None:
    """Take a token and record the call, joined by the attempts that have equal parameters.

    Raises:
        AlreadyCalled: another worker makes the call, or has made it; the token is not taken.
        VersionConflict: another worker has taken a token or joined an attempt meanwhile.
    """
    if not rate_limit.take_launch_token(connection, ctx, reserve):
        return None
    now = ctx.clock()
    # Without a rate limit each attempt is called at once, so no attempt waits to join.
    may_join = attempt.calls == 0 and rate_limit.is_limited(ctx, RUN)
    others = calls.joinable_attempts(connection, attempt) if may_join else ()
    if others:
        call_token = f"call-{uuid4().hex}"
        tokens = [attempt.client_token, *others]
        parameters = batch_parameters(attempt.parameters, call_token)
        return calls.join_call(connection, tokens, call_token, parameters, now)
    if not calls.record_call(connection, call, now):
        raise AlreadyCalled
    return call


def _run_instances(ctx: Context, call: LaunchCall, attempt: Attempt) -> Sequence[str]:
    """Make the call and return the ids of its instances, sorted.

    With sorted ids, two workers that make the same call assign the same instances to the same
    agents.
    """
    try:
        instance_ids = ctx.ec2.run_several(call.parameters, call.client_token, call.size)
    except CloudError as error:
        is_repeat = ctx.clock() - attempt.created_at >= REPEATED_AFTER
        if error.remedy is Remedy.WAIT or not (is_repeat or error.remedy is Remedy.NEW_TOKEN):
            raise
        # The client token is spent, or EC2 refuses this call although an earlier one launched
        # instances. Instances of an earlier call carry the token in their tag.
        instance_ids = [instance.id for instance in ctx.ec2.launched_by(call.client_token)]
        if not instance_ids:
            raise
    return sorted(instance_ids)


def _record_launched(
    connection: Connection, ctx: Context, call: LaunchCall, instance_ids: Sequence[str]
) -> None:
    """Assign the launched instances to the attempts of the call; refuse the other attempts.

    After the database was restored from a backup, a replica may use a client token again that has
    launched an instance. If another row has this instance now, the replica launches another.
    """
    now = ctx.clock()
    members = calls.attempts_of_call(connection, call)
    assigned = {member.instance_id for member in members}
    others = known_instances(connection, instance_ids, {member.replica_id for member in members})
    instance_ids = [one for one in instance_ids if one not in others]
    is_answered = all(member.status != "open" for member in members)
    if not is_answered:
        for member, instance_id in zip(members, instance_ids, strict=False):
            close_attempt(connection, member.client_token, now, instance_id=instance_id)
            assigned.add(instance_id)
            replica = read_replica(connection, member.replica_id)
            # A replica that was released meanwhile needs its instance id too, to terminate it.
            if replica is not None:
                change_replica(connection, replica, instance_id=instance_id, launched_at=now)
        shortage = CloudError(
            NOT_GRANTED,
            f"EC2 launched {len(instance_ids)} of {call.size} instances.",
            Remedy.NEXT_POOL,
        )
        if others:
            names = ", ".join(sorted(others))
            shortage = CloudError(
                NOT_GRANTED, f"The client token has launched {names} before.", Remedy.NEW_TOKEN
            )
        _refuse_attempts(connection, ctx, members[len(instance_ids) :], call, shortage)
    # EC2 refused the same call of another worker, which closed the attempts. Their agents try other
    # pools since, so these instances are terminated.
    reason = f"launched by call {call.client_token} after EC2 had refused it"
    replica = read_replica(connection, members[0].replica_id)
    for instance_id in instance_ids:
        if instance_id not in assigned and replica is not None:
            plan_retirement(
                connection,
                replica.agent_id,
                instance_id,
                reason,
                now,
                terminate_after=now,
                was_primary=False,
                incident_id=replica.incident_id,
            )


def _record_refusal(
    connection: Connection, ctx: Context, call: LaunchCall, error: CloudError
) -> None:
    """Close the attempts of a refused call, unless another worker has recorded an answer."""
    members = calls.attempts_of_call(connection, call)
    if any(member.status == "open" for member in members):
        _refuse_attempts(connection, ctx, members, call, error)


def _refuse_attempts(
    connection: Connection,
    ctx: Context,
    members: Sequence[Attempt],
    call: LaunchCall,
    error: CloudError,
) -> None:
    """Close attempts with an error, and put their pool on cooldown if it has no capacity."""
    now = ctx.clock()
    needs_operator = error.remedy is Remedy.OPERATOR
    for member in members:
        close_attempt(connection, member.client_token, now, error_code=error.code)
        replica = read_replica(connection, member.replica_id)
        if replica is None:
            continue
        write_events(connection, [_refusal_event(member, replica, call, error, now)], now)
        if needs_operator and replica.status is ReplicaStatus.LAUNCHING:
            reason = f"EC2 refuses the launch: {error.code}"
            fail_launch(connection, replica, reason, RETRY_OPERATOR, now)
    # A quota that is too small for a batched call may have room for one instance.
    is_batch_over_quota = call.size > 1 and error.code in QUOTA
    if error.remedy is Remedy.NEXT_POOL and members and not is_batch_over_quota:
        pool_id, market = members[0].pool_id, members[0].market
        pause = timedelta(seconds=ctx.settings.pool_cooldown_seconds)
        cool_down_pool(connection, pool_id, market, error.code, now, pause)
        cancel_unsent_in_pool(connection, pool_id, market, error.code, now)


def _refusal_event(
    attempt: Attempt, replica: Replica, call: LaunchCall, error: CloudError, now: datetime
) -> Event:
    details: dict[str, Any] = {
        "replica_id": replica.id,
        "token": attempt.client_token,
        "code": error.code,
        "next": error.remedy,
        "ms": milliseconds(attempt.created_at, now),
    }
    batch = ""
    if call.size > 1:
        details["one_of"] = call.size
        batch = f", one of {call.size}"
    return Event(
        "launch_refused",
        f"EC2 refused {attempt.market} in {attempt.pool_id}{batch}: {error}",
        agent_id=replica.agent_id,
        severity="error" if error.remedy is Remedy.OPERATOR else "warning",
        details=details,
        incident_id=replica.incident_id,
    )
