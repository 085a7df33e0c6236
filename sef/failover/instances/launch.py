"""From the wish for a standby to an instance that runs, one committed step at a time.

Each method does one step and says what it did, or returns None when there is nothing to do yet.
The order is always: write down the RunInstances call with its token, commit, make the call, write
down the answer. Whoever finds the rows, after a crash or a time-out, goes on from there.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection

from sef.agents import Agent, postpone_agent, read_agent
from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, MANAGED_TAG, REPLICA_TAG, LaunchConfiguration
from sef.cloud.errors import CloudError, Remedy
from sef.cloud.launch_parameters import launch_fingerprint, launch_parameters
from sef.context import Context
from sef.db.leases import deployment_name
from sef.failover.incidents.rows import Incident, latest_incident, open_incident, update_incident
from sef.failover.instances import attempts, run_instances
from sef.failover.instances.attempts import Attempt
from sef.failover.instances.candidates import (
    NoLaunchConfiguration,
    launch_options,
    rank_candidates,
    was_too_many,
)
from sef.failover.instances.limits import launch_limit, report_limit
from sef.failover.instances.ranking import Candidate
from sef.failover.standbys.backoff import (
    RETRY,
    RETRY_EMERGENCY,
    RETRY_OPERATOR,
    cool_down_pool_of,
    escalate,
    fail_launch,
)
from sef.failover.standbys.rows import Replica, change_replica, move_replica, read_replica
from sef.failover.standbys.watch import MISSING_FOR, Observed, record_check
from sef.notifications.events import Event, write_events
from sef.terms import IncidentStatus, Market, ReplicaStatus


def advance(ctx: Context, agent: Agent, replica: Replica, incident: Incident | None) -> str | None:
    """Take a launching replica one step further.

    Raises:
        CloudError: EC2 could not say; the same step is to be repeated.
    """
    tries, current = ctx.database.read(_attempts_and_replica, replica.id)
    if current != replica:
        return "another worker took it further"
    if tries and tries[-1].status == "open":
        return run_instances.make_call(ctx, tries[-1], incident)
    if tries and tries[-1].status == "launched":
        return _await_running(ctx, agent, replica)
    return _plan_launch(ctx, agent, replica, incident, tries)


def _attempts_and_replica(
    connection: Connection, replica_id: str
) -> tuple[Sequence[Attempt], Replica | None]:
    # Read the replica last: if its version is unchanged, the attempts are current.
    tries = attempts.attempts_of(connection, replica_id)
    return tries, read_replica(connection, replica_id)


def _plan_launch(
    ctx: Context,
    agent: Agent,
    replica: Replica,
    incident: Incident | None,
    tries: Sequence[Attempt],
) -> str | None:
    now = ctx.clock()
    if ctx.database.read(launch_limit, agent.id, now, ctx.settings):
        # EC2 need not be asked what to launch.
        put_off = ctx.database.write(_defer_if_limited, ctx, replica, incident)
        if put_off is not None:
            return put_off
    try:
        survey = launch_options(ctx, agent)
    except (NoLaunchConfiguration, CloudError) as error:
        if isinstance(error, CloudError) and error.remedy is Remedy.WAIT:
            raise
        why = error  # the name is unbound after the clause
        return ctx.database.write(cannot_launch, ctx, replica, incident, why)
    ranked = ctx.database.read(rank_candidates, ctx, agent, incident, survey, tries)
    return ctx.database.write(decide_launch, ctx, replica, incident, tries, survey.source, ranked)


def decide_launch(
    connection: Connection,
    ctx: Context,
    replica: Replica,
    incident: Incident | None,
    tries: Sequence[Attempt],
    source: LaunchConfiguration,
    candidates: Sequence[Candidate],
) -> str | None:
    """Commit to a launch into the best candidate, give up, or put off; None: too late."""
    if read_replica(connection, replica.id) != replica:
        return None  # somebody else has taken it further since
    put_off = _defer_if_limited(connection, ctx, replica, incident)
    if put_off is not None:
        return put_off
    if not candidates:
        refusals = ", ".join(sorted({str(a.error_code) for a in tries})) or "all cooling down"
        is_emergency = incident is not None and incident.is_emergency
        pause = RETRY_EMERGENCY if is_emergency else RETRY
        return fail_launch(
            connection, replica, f"no pool has capacity ({refusals})", pause, ctx.clock()
        )
    best = candidates[0]
    token = f"{replica.id}-{len(tries) + 1}"
    tags = {
        MANAGED_TAG: deployment_name(connection),
        AGENT_TAG: replica.agent_id,
        REPLICA_TAG: replica.id,
        ATTEMPT_TAG: token,
    }
    parameters = launch_parameters(source, best.pool, spot=best.market is Market.SPOT, tags=tags)
    change_replica(connection, replica, pool_id=str(best.pool), market=best.market)
    now = ctx.clock()
    attempts.open_attempt(
        connection,
        replica,
        len(tries) + 1,
        token,
        str(best.pool),
        best.market,
        parameters,
        token if any(map(was_too_many, tries)) else launch_fingerprint(parameters),
        now,
    )
    said = f"launching {best.reason}, like {source.described_as}"
    considered = [candidate.reason for candidate in candidates[:10]]
    event = Event(
        "launch_decided",
        said,
        replica.agent_id,
        details={"replica_id": replica.id, "token": token, "candidates": considered},
        incident_id=replica.incident_id,
    )
    write_events(connection, [event], now)
    return said


def cannot_launch(
    connection: Connection,
    ctx: Context,
    replica: Replica,
    incident: Incident | None,
    why: NoLaunchConfiguration | CloudError,
) -> str | None:
    """Give up, or put off, since nothing says what to launch; None: too late."""
    put_off = _defer_if_limited(connection, ctx, replica, incident)
    if put_off is not None:
        return put_off
    is_unread = isinstance(why, CloudError)
    said = f"the launch parameters cannot be read: {why}" if is_unread else str(why)
    return fail_launch(connection, replica, said, RETRY_OPERATOR, ctx.clock())


def _defer_if_limited(
    connection: Connection, ctx: Context, replica: Replica, incident: Incident | None
) -> str | None:
    """Put a launch off that a limit forbids, and call the operator; None if none does.

    The replica stays as it is: nothing failed, and it goes on by itself.
    """
    now = ctx.clock()
    limit = launch_limit(connection, replica.agent_id, now, ctx.settings, is_decision=True)
    if limit is None or read_replica(connection, replica.id) != replica:
        return None
    report_limit(connection, limit, "no instance is launched", now, incident_id=replica.incident_id)
    if incident is not None and incident.kind.is_planned:
        return fail_launch(connection, replica, limit.reason, RETRY_OPERATOR, ctx.clock())
    is_emergency = incident is not None and incident.is_emergency
    pause = RETRY_EMERGENCY if is_emergency else RETRY
    agent = read_agent(connection, replica.agent_id, lock=True)
    postpone_agent(connection, agent, now, pause, limit.reason)
    escalate(connection, agent.id, limit.reason, now, at_once=True)
    return f"put off: {limit.reason}"


def _await_running(ctx: Context, agent: Agent, replica: Replica) -> str | None:
    now = ctx.clock()
    assert replica.instance_id is not None
    assert replica.launched_at is not None
    age = now - replica.launched_at
    instance = ctx.ec2.instances([replica.instance_id]).get(replica.instance_id)
    if instance is None:
        return ctx.database.write(_on_missing, ctx, replica)
    if instance.is_gone:
        said = f"its instance is {instance.ec2_state}"
        return ctx.database.write(_on_died, ctx, replica, said)
    if instance.ec2_state == "running":
        pool = str(instance.pool) if instance.pool else str(replica.pool_id)
        return ctx.database.write(mark_ready, ctx, replica, pool)
    if age >= timedelta(seconds=ctx.settings.launch_timeout_seconds):
        said = f"does not run after {ctx.settings.launch_timeout_seconds:.0f} s"
        return ctx.database.write(_on_timeout, ctx, replica, said)
    return None


def _on_missing(connection: Connection, ctx: Context, told: Replica) -> str | None:
    """EC2 does not show it, or not yet. It may run: it is terminated, not only given up."""
    replica = read_replica(connection, told.id)
    if replica != told:
        return None
    every = timedelta(seconds=ctx.settings.standby_check_interval_seconds)
    sight = record_check(
        connection, replica, Observed.MISSING, ctx.clock(), every=every, patience=MISSING_FOR
    )
    if sight is not Observed.GONE:
        return None
    current = read_replica(connection, told.id)
    assert current is not None
    return _on_timeout(connection, ctx, current, "EC2 does not show it")


def mark_ready(connection: Connection, ctx: Context, replica: Replica, pool_id: str) -> str | None:
    """Write down that a launched instance runs; None: too late."""
    if read_replica(connection, replica.id) != replica:
        return None
    now = ctx.clock()
    signalled = latest_incident(connection, replica.agent_id, str(replica.instance_id))
    if signalled is not None:
        # AWS announced its end before it was known whose it is.
        said = "AWS announced its end while it was launching"
        cool_down_pool_of(connection, replica, "Signalled", now, ctx.settings)
        move_replica(connection, replica, ReplicaStatus.RELEASING, said, now, severity="warning")
        return said
    seconds = (now - replica.created_at).total_seconds()
    said = f"runs in {pool_id} after {seconds:.1f} s"
    move_replica(
        connection, replica, ReplicaStatus.READY, said, now, pool_id=pool_id, checked_at=now
    )
    incident = open_incident(connection, replica.agent_id)
    if incident is not None and incident.status is IncidentStatus.NEEDS_OPERATOR:
        update_incident(connection, incident, status=IncidentStatus.OPEN)
    return said


def _on_timeout(connection: Connection, ctx: Context, replica: Replica, said: str) -> str | None:
    if read_replica(connection, replica.id) != replica:
        return None
    now = ctx.clock()
    cool_down_pool_of(connection, replica, "TooSlow", now, ctx.settings)
    move_replica(connection, replica, ReplicaStatus.RELEASING, said, now, severity="warning")
    escalate(connection, replica.agent_id, said, now)
    return said


def _on_died(connection: Connection, ctx: Context, replica: Replica, reason: str) -> str | None:
    cool_down_pool_of(connection, replica, "DiedWhileLaunching", ctx.clock(), ctx.settings)
    return fail_launch(connection, replica, reason, RETRY_EMERGENCY, ctx.clock())
