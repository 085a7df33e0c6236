"""Launch the instance of a standby, one committed step in each call of `advance`.

1. Check SEF's own launch limits. At a limit, postpone the agent and call the operator.
2. Read the launch parameters, pools and prices from EC2, and rank the pools.
3. Open a launch attempt in the best pool: commit the parameters and a client token.
4. Make the RunInstances call and record EC2's answer (`run_instances`). If EC2 refuses, start
   again at step 1 with the next pool.
5. Wait until EC2 reports the instance running, and mark the replica ready. If the instance ends,
   stays missing or does not run in time, fail or release the replica. In an emergency a slow
   launch gets a relief in another pool after some seconds (`relief`).

After a crash or a timeout between two steps, any worker continues from the rows.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.agents import Agent, postpone_agent, read_agent
from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, MANAGED_TAG, REPLICA_TAG
from sef.cloud.errors import CloudError, Remedy
from sef.cloud.launch_parameters import launch_fingerprint, launch_parameters
from sef.cloud.likeness import LaunchConfiguration
from sef.context import Context
from sef.db.leases import deployment_name
from sef.failover.incidents.rows import Incident
from sef.failover.instances import relief, run_instances
from sef.failover.instances.arrival import await_running
from sef.failover.instances.attempts import Attempt, attempts_of, open_attempt
from sef.failover.instances.candidates import (
    LaunchOptions,
    NoLaunchConfiguration,
    is_batch_over_quota,
    launch_options,
    may_leave_targets,
    rank_candidates,
    remember_options,
)
from sef.failover.instances.limits import launch_limit, report_limit
from sef.failover.instances.place_events import tell_of_place
from sef.failover.ranking import Candidate
from sef.failover.standbys.backoff import (
    RETRY,
    RETRY_EMERGENCY,
    RETRY_OPERATOR,
    escalate,
    fail_launch,
)
from sef.failover.standbys.rows import (
    Replica,
    change_replica,
    live_standby,
    move_replica,
    read_replica,
    relief_of,
)
from sef.notifications.events import Event, write_events
from sef.terms import Market, ReplicaStatus

MAX_CONSIDERED = 10
"""Maximum number of candidates in the details of a launch decision."""


def advance_all(
    ctx: Context,
    agent: Agent,
    standby: Replica | None,
    relief_of_it: Replica | None,
    incident: Incident | None,
) -> str | None:
    """Take the next step of the standby that is launching, or of its relief.

    A call for one of them that EC2 does not answer delays the other by that call only.

    Raises:
        CloudError: EC2 did not return a usable answer for one, and the other can only wait.
    """
    launching = [
        replica
        for replica in (standby, relief_of_it)
        if replica is not None and replica.status is ReplicaStatus.LAUNCHING
    ]
    # To ask EC2 for an instance takes less time than a call that it has left unanswered. Of two
    # without an instance, the standby is the one whose call is unanswered.
    launching.sort(key=lambda r: (r.instance_id is None, not (r.instance_id or r.relief_agent_id)))
    failed: CloudError | None = None
    for replica in launching:
        try:
            sentence = advance(ctx, agent, replica, incident)
        except CloudError as error:
            failed = error
            continue
        if sentence is not None:
            return sentence
    if failed is not None:
        raise failed
    return None


def advance(ctx: Context, agent: Agent, replica: Replica, incident: Incident | None) -> str | None:
    """Take the next step of a launching replica.

    Return a sentence about the step, or None if SEF can only wait.

    Raises:
        CloudError: EC2 did not return a usable answer; a later pass repeats the step.
    """
    attempts, current = ctx.database.read(_attempts_and_replica, replica.id)
    if current != replica:
        return "another worker has changed the replica"
    is_launched = bool(attempts) and attempts[-1].status == "launched"
    if is_launched:
        sentence = await_running(ctx, replica, attempts)
        if sentence is not None:
            return sentence
    if relief.is_slow(attempts, incident, ctx.clock(), ctx.settings):
        sentence = ctx.database.write(relief.relieve, ctx, replica)
        if sentence is not None:
            return sentence
    if is_launched:
        return None
    if attempts and attempts[-1].status == "open":
        return run_instances.make_call(ctx, attempts[-1], incident)
    if replica.live_agent_id is not None and replica.relief_not_before is not None:
        sentence = ctx.database.write(_leave_to_relief, replica, ctx.clock())
        if sentence is not None:
            return sentence
    return _plan_launch(ctx, agent, replica, incident, attempts)


def decide_launch(
    connection: Connection,
    ctx: Context,
    replica: Replica,
    incident: Incident | None,
    attempts: Sequence[Attempt],
    options: LaunchOptions,
    candidates: Sequence[Candidate],
) -> str | None:
    """Open a launch attempt in the best candidate and return a sentence about the decision.

    At a limit the launch is postponed; without a candidate it fails. None if another worker has
    changed the replica since it was read.

    Args:
        attempts: the earlier attempts of the replica.
    """
    if read_replica(connection, replica.id) != replica:
        return None
    postponed = _defer_if_limited(connection, ctx, replica, incident)
    if postponed is not None:
        return postponed
    if not candidates:
        agent = read_agent(connection, replica.agent_id)
        codes = {str(attempt.error_code) for attempt in attempts}
        away = may_leave_targets(ctx, options, incident)
        reason = options.shortage(agent, codes, away=away)
        return fail_launch(connection, replica, reason, _retry_delay(incident), ctx.clock())
    best, now = candidates[0], ctx.clock()
    configuration = options.source
    remember_options(connection, read_agent(connection, replica.agent_id), options, now)
    token = _open_attempt(connection, replica, attempts, configuration, best, now)
    message = f"launching {best.reason}, like {configuration.described_as}"
    considered = [candidate.reason for candidate in candidates[:MAX_CONSIDERED]]
    event = Event(
        "launch_decided",
        message,
        agent_id=replica.agent_id,
        severity="warning" if best.left_behind else "info",
        details={"replica_id": replica.id, "token": token, "candidates": considered},
        incident_id=replica.incident_id,
    )
    write_events(connection, [event], now)
    tell_of_place(connection, replica, configuration, best, now)
    return message


def cannot_launch(
    connection: Connection,
    ctx: Context,
    replica: Replica,
    incident: Incident | None,
    error: NoLaunchConfiguration | CloudError,
) -> str | None:
    """Fail the replica because its launch parameters are missing or cannot be read.

    At a limit the launch is postponed. None if another worker has changed the replica.
    """
    postponed = _defer_if_limited(connection, ctx, replica, incident)
    if postponed is not None:
        return postponed
    reason = str(error)
    if isinstance(error, CloudError):
        reason = f"EC2 did not return the launch parameters: {error}"
    return fail_launch(connection, replica, reason, RETRY_OPERATOR, ctx.clock())


def _attempts_and_replica(
    connection: Connection, replica_id: str
) -> tuple[Sequence[Attempt], Replica | None]:
    # Read the replica last: if its version is unchanged, the attempts are current too.
    attempts = attempts_of(connection, replica_id)
    return attempts, read_replica(connection, replica_id)


def _plan_launch(
    ctx: Context,
    agent: Agent,
    replica: Replica,
    incident: Incident | None,
    attempts: Sequence[Attempt],
) -> str | None:
    is_emergency = incident is not None and incident.is_emergency
    if ctx.database.read(
        launch_limit, agent.id, ctx.clock(), ctx.settings, is_emergency=is_emergency
    ):
        # At a limit there is no need to ask EC2 for launch options.
        postponed = ctx.database.write(_defer_if_limited, ctx, replica, incident)
        if postponed is not None:
            return postponed
    try:
        is_emergency = incident is not None and incident.is_emergency
        options = launch_options(ctx, agent, is_emergency=is_emergency)
    except (NoLaunchConfiguration, CloudError) as error:
        if isinstance(error, CloudError) and error.remedy is Remedy.WAIT:
            raise
        return ctx.database.write(cannot_launch, ctx, replica, incident, error)
    candidates = ctx.database.read(_candidates, ctx, agent, replica, incident, options, attempts)
    return ctx.database.write(decide_launch, ctx, replica, incident, attempts, options, candidates)


def _candidates(
    connection: Connection,
    ctx: Context,
    agent: Agent,
    replica: Replica,
    incident: Incident | None,
    options: LaunchOptions,
    attempts: Sequence[Attempt],
) -> Sequence[Candidate]:
    """Rank the pools for a launch; that of a relief avoids the pool of its standby if it can."""
    standby = live_standby(connection, agent.id) if replica.relief_agent_id else None
    if standby is not None:
        beside = (*attempts, *attempts_of(connection, standby.id)[-1:])
        candidates = rank_candidates(connection, ctx, agent, incident, options, beside)
        if candidates:
            return candidates
    return rank_candidates(connection, ctx, agent, incident, options, attempts)


def _leave_to_relief(connection: Connection, replica: Replica, now: datetime) -> str | None:
    """Fail a standby without a launch if its relief is launching: one launch is planned at a time.

    None if it has no relief, or if another worker has changed the replica.
    """
    if (
        read_replica(connection, replica.id) != replica
        or relief_of(connection, replica.agent_id) is None
    ):
        return None
    reason = "EC2 refused the launch, and another is under way"
    move_replica(connection, replica, ReplicaStatus.FAILED, reason, now, severity="warning")
    return reason


def _open_attempt(
    connection: Connection,
    replica: Replica,
    attempts: Sequence[Attempt],
    configuration: LaunchConfiguration,
    candidate: Candidate,
    now: datetime,
) -> str:
    """Commit to a launch in a pool, and return the client token of the attempt."""
    number = len(attempts) + 1
    token = f"{replica.id}-{number}"
    tags = {
        MANAGED_TAG: deployment_name(connection),
        AGENT_TAG: replica.agent_id,
        REPLICA_TAG: replica.id,
        ATTEMPT_TAG: token,
    }
    pool_id, market = str(candidate.pool), candidate.market
    is_spot = market is Market.SPOT
    parameters = launch_parameters(configuration, candidate.pool, spot=is_spot, tags=tags)
    # After a quota refused a batched call, the attempt must not join a batched call again: its own
    # token as fingerprint differs from the fingerprint of every other attempt.
    is_alone = any(map(is_batch_over_quota, attempts))
    fingerprint = token if is_alone else launch_fingerprint(parameters)
    change_replica(connection, replica, pool_id=pool_id, market=market)
    open_attempt(
        connection,
        client_token=token,
        replica_id=replica.id,
        number=number,
        pool_id=pool_id,
        market=market,
        parameters=parameters,
        launch_fingerprint=fingerprint,
        attributes=dict(configuration.after_launch) or None,
        now=now,
    )
    return token


def _defer_if_limited(
    connection: Connection, ctx: Context, replica: Replica, incident: Incident | None
) -> str | None:
    """Postpone a launch that a limit forbids, and escalate its incident; None without a limit.

    The replica stays as it is: nothing failed, and the launch continues when the limit allows. A
    planned switchover is not postponed: its replica fails.
    """
    now = ctx.clock()
    is_emergency = incident is not None and incident.is_emergency
    limit = launch_limit(
        connection, replica.agent_id, now, ctx.settings, is_emergency=is_emergency, is_decision=True
    )
    if limit is None or read_replica(connection, replica.id) != replica:
        return None
    report_limit(
        connection,
        limit,
        "SEF launches no instance now and retries",
        now,
        incident_id=replica.incident_id,
    )
    if incident is not None and incident.kind.is_planned:
        return fail_launch(connection, replica, limit.reason, RETRY_OPERATOR, now)
    agent = read_agent(connection, replica.agent_id, lock=True)
    postpone_agent(connection, agent, now, _retry_delay(incident), limit.reason)
    escalate(connection, agent.id, limit.reason, now, at_once=True)
    return f"launch postponed: {limit.reason}"


def _retry_delay(incident: Incident | None) -> timedelta:
    is_emergency = incident is not None and incident.is_emergency
    return RETRY_EMERGENCY if is_emergency else RETRY
