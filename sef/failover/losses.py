"""Detect primaries that disappeared without a recommendation or a notice.

A loss needs two pieces of evidence: EC2 reports the instance gone, and the instance is silent.
EC2's answer may lag, or describe an instance that an operator has replaced; a silent instance may
only have lost its network. An instance that EC2 does not show at all counts as gone only after
several health checks (`sef.failover.standbys.watch`).

An instance is heard, not a name: a report counts for the instance that it names, at the time of its
observation. A report that names none counts for the primary while no other instance may have sent
it (`sef.agents.others_may_report`). Otherwise it proves nothing, and the primary counts as silent
once EC2 has shown it gone for the threshold of silence.

A lost primary that EC2 shows running again, such as one that was stopped and started in the
console, is not replaced: its incident is released.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, func, literal, or_, select

from sef.agents import Agent, others_may_report, read_agent, update_agent
from sef.cloud.ec2 import Instance
from sef.context import Context
from sef.db.statements import change, rows_where, upsert
from sef.db.tables import agent_instances, agents, incidents
from sef.errors import AgentNotFound, Unavailable
from sef.failover.incidents.closing import close_incident
from sef.failover.incidents.rows import (
    Incident,
    open_incident,
    open_incident_of_primary,
    update_incident,
)
from sef.failover.incidents.signal_rows import record_signal
from sef.failover.returned import INSTANCES_PER_CALL, release_returned
from sef.failover.standbys.backoff import cool_down_interrupted_pool
from sef.failover.standbys.rows import Replica, missing_replicas, replica_of_instance
from sef.failover.standbys.watch import MISSING_FOR, Observed, record_check
from sef.failover.succession import adopt_successor
from sef.notifications.events import Event, write_events
from sef.notifications.failures import report_failure
from sef.terms import (
    LOSING,
    UNNAMED,
    Goal,
    IncidentKind,
    IncidentStatus,
    NotificationKind,
    Signal,
    SignalType,
)


def detect_losses(ctx: Context) -> int:
    """Open an incident for each lost primary, and return the number of losses.

    Also release the incidents of lost primaries that run again. An agent's exception ends the
    search for this agent only.

    Raises:
        CloudError: EC2 cannot be read. SEF concludes nothing from that.
    """
    now = ctx.clock()
    release_returned(ctx)
    losses, after = 0, ""
    while True:
        page = ctx.database.read(
            silent_agents, _silent_since(ctx, now), after=after, limit=INSTANCES_PER_CALL
        )
        if page:
            losses += _examine(ctx, _read_each(ctx, page), now)
        if len(page) < INSTANCES_PER_CALL:
            return losses
        after = page[-1]


def check_missing_primary(ctx: Context, agent: Agent) -> str:
    """Check again a primary that EC2 did not show, between two searches for losses.

    An agent that reports has its primary: the earlier checks no longer count.

    Raises:
        CloudError: EC2 cannot be read.
    """
    now = ctx.clock()
    if ctx.database.read(heard_since, agent.id, _silent_since(ctx, now)):
        ctx.database.write(_record_heard, ctx, agent, now)
        return "the primary that EC2 did not show has reported"
    losses = _examine(ctx, [agent], now)
    return f"checked the primary that EC2 did not show: {'lost' if losses else 'not lost'}"


def _read_each(ctx: Context, agent_ids: Sequence[str]) -> Sequence[Agent]:
    """Read the rows of agents; leave out one that cannot be read, and report it."""
    with suppress(ValueError, TypeError):  # one of the rows: read them one by one to find it
        return ctx.database.read(_read_all, agent_ids)
    read: list[Agent] = []
    for agent_id in agent_ids:
        try:
            read.append(ctx.database.read(read_agent, agent_id))
        except AgentNotFound:
            continue  # deleted since it was listed
        except Unavailable:
            raise
        except Exception as error:
            report_failure(ctx, agent_id, "search for losses", error)
    return read


def _read_all(connection: Connection, agent_ids: Sequence[str]) -> Sequence[Agent]:
    rows = connection.execute(
        select(agents).where(agents.c.id.in_(agent_ids)).order_by(agents.c.id)
    )
    return [Agent(**row._mapping) for row in rows]


def silent_agents(
    connection: Connection, since: datetime, *, after: str = "", limit: int
) -> Sequence[str]:
    """Return the ids of agents whose primary was not heard since `since` and is not being replaced.

    An agent that got its primary after `since` is not silent. A planned switchover replaces no lost
    primary: it may wait for a standby for long.

    Args:
        after: return agents with larger ids only, in the order of the ids.
    """
    incident = incidents.c
    is_being_replaced = exists().where(
        incident.open_agent_id == agents.c.id,
        incident.goal == Goal.SWITCH,
        incident.kind.in_(LOSING),
    )
    return connection.scalars(
        select(agents.c.id)
        .where(
            agents.c.id > after,
            agents.c.instance_id.is_not(None),
            func.coalesce(agents.c.primary_since, agents.c.created_at) <= since,
            ~_is_heard(since),
            ~is_being_replaced,
        )
        .order_by(agents.c.id)
        .limit(limit)
    ).all()


def heard_since(connection: Connection, agent_id: str, since: datetime) -> bool:
    """Return True if the primary was heard since `since`."""
    statement = select(agents.c.id).where(agents.c.id == agent_id, _is_heard(since))
    return connection.scalar(statement) is not None


def _is_heard(since: datetime) -> ColumnElement[bool]:
    """Return the condition that the primary of an agent was heard since `since`."""
    others = others_may_report(agents.c.id, agents.c.instance_id)
    return or_(
        _has_reported(agents.c.id, agents.c.instance_id, since),
        and_(_has_reported(agents.c.id, literal(UNNAMED), since), ~others),
    )


def _has_reported(
    agent_id: ColumnElement[str], instance_id: ColumnElement[Any], since: datetime
) -> ColumnElement[bool]:
    known = agent_instances.c
    return exists().where(
        known.agent_id == agent_id, known.instance_id == instance_id, known.heard_at > since
    )


def _silent_since(ctx: Context, now: datetime) -> datetime:
    return now - timedelta(seconds=ctx.settings.silence_threshold_seconds)


def _examine(ctx: Context, silent: Sequence[Agent], now: datetime) -> int:
    """Ask EC2 for the primaries of silent agents; return the number of losses."""
    instances = ctx.ec2.instances([agent.instance_id for agent in silent if agent.instance_id])
    if ctx.database.read(missing_replicas, instances):
        ctx.database.write(_record_reappeared, ctx, instances, now)
    losses = 0
    for agent in silent:
        instance = instances.get(agent.instance_id or "")
        if instance is not None and instance.is_gone and adopt_successor(ctx, agent, now):
            continue  # another instance of the agent serves already
        if instance is not None and instance.is_alive:
            ctx.database.write(_forget_gone, agent)
        if instance is None or instance.is_gone:
            try:
                losses += ctx.database.write(_record_loss, ctx, agent, instance, now)
            except Unavailable:
                raise
            except Exception as error:
                report_failure(ctx, agent.id, "search for losses", error)
    return losses


def _record_loss(
    connection: Connection,
    ctx: Context,
    agent_before: Agent,
    instance: Instance | None,
    now: datetime,
) -> bool:
    """Record a loss in a new incident, or in the open one; return False if there is no loss.

    Args:
        agent_before: the agent's row when EC2 was asked.
        instance: the answer of EC2. None: EC2 does not show the instance.
    """
    agent = read_agent(connection, agent_before.id, lock=True)
    if agent != agent_before or agent.instance_id is None:
        return False  # the row has changed since EC2 was asked: the next run examines it again
    if heard_since(connection, agent.id, _silent_since(ctx, now)):
        return False
    if instance is None and not _is_gone_for_good(connection, ctx, agent.instance_id, now):
        return False
    if _someone_reports(connection, ctx, agent, now) and not _is_long_gone(
        connection, ctx, agent, now
    ):
        return False
    incident = open_incident(connection, agent.id)
    if incident is not None and incident.is_emergency:
        return False
    threshold = ctx.settings.silence_threshold_seconds
    state = instance.ec2_state if instance else "not there"
    observed = f"{agent.instance_id} is {state}" if instance else f"{agent.instance_id} is missing"
    reason = f"{observed} in EC2, and it has been silent for at least {threshold:.0f} s"
    inputs = {"ec2_state": state, "silent_for": threshold}
    incident = _incident_of_loss(connection, agent, incident, reason, now)
    record_signal(connection, incident, Signal(SignalType.LOSS, now), now)
    update_incident(
        connection,
        incident,
        kind=IncidentKind.LOSS,
        goal=Goal.SWITCH,
        reason=reason,
        termination_at=now,
        deadline=now,
        inputs=inputs,
    )
    update_agent(connection, agent, now, not_before=None)
    cool_down_interrupted_pool(connection, agent.pool_id, now, ctx.settings)
    event = Event(
        "unannounced_loss",
        f"{reason}; SEF promotes a standby",
        agent_id=agent.id,
        severity="error",
        details=inputs,
        incident_id=incident.id,
        notification=NotificationKind.DETECTION,
    )
    write_events(connection, [event], now)
    return True


def _someone_reports(connection: Connection, ctx: Context, agent: Agent, now: datetime) -> bool:
    """Return True if reports without an instance arrive that may be the primary's.

    They are not if the primary has named itself.
    """
    before = (agent.primary_since or agent.created_at) - timedelta(microseconds=1)
    statement = select(
        _has_reported(literal(agent.id), literal(UNNAMED), _silent_since(ctx, now)),
        _has_reported(literal(agent.id), literal(agent.instance_id), before),
    )
    someone, primary = connection.execute(statement).one()
    return bool(someone) and not primary


def _is_long_gone(connection: Connection, ctx: Context, agent: Agent, now: datetime) -> bool:
    """Return True if EC2 has shown the primary gone for the threshold of silence.

    The first time is recorded, and deleted when EC2 shows the primary running.
    """
    key = {"agent_id": agent.id, "instance_id": agent.instance_id}
    known = rows_where(connection, agent_instances, key).one_or_none()
    if known is None or known.gone_since is None or known.gone_since > now:
        upsert(connection, agent_instances, [{**key, "gone_since": now}])
        return False
    return bool(known.gone_since <= _silent_since(ctx, now))


def _forget_gone(connection: Connection, agent: Agent) -> None:
    key = {"agent_id": agent.id, "instance_id": agent.instance_id}
    known = rows_where(connection, agent_instances, key).one_or_none()
    if known is not None and known.gone_since is not None:
        change(connection, agent_instances, key, gone_since=None)


def _incident_of_loss(
    connection: Connection, agent: Agent, current: Incident | None, reason: str, now: datetime
) -> Incident:
    """Return the incident to record a loss in.

    An open incident of a recommendation becomes the incident of the loss. An open planned
    switchover ends. Otherwise SEF opens an incident.
    """
    if current is not None and not current.kind.is_planned:
        return current
    if current is not None:
        close_incident(connection, current, IncidentStatus.RELEASED, reason, now)
    return open_incident_of_primary(connection, agent, now)


def _is_gone_for_good(
    connection: Connection, ctx: Context, instance_id: str, now: datetime
) -> bool:
    """Return True if SEF launched the instance and several checks in a row did not find it.

    An instance that SEF did not launch may never have existed, or may be in another region: its
    absence is no evidence of a loss.
    """
    replica = replica_of_instance(connection, instance_id)
    return replica is not None and _record_check(connection, ctx, replica, Observed.MISSING, now)


def _record_reappeared(
    connection: Connection, ctx: Context, instances: Mapping[str, Instance], now: datetime
) -> None:
    """Reset the checks of replicas that EC2 did not show before and shows now."""
    for replica in missing_replicas(connection, instances):
        _record_check(connection, ctx, replica, Observed.RUNNING, now)


def _record_heard(connection: Connection, ctx: Context, agent: Agent, now: datetime) -> None:
    replica = replica_of_instance(connection, str(agent.instance_id))
    if replica is not None:
        _record_check(connection, ctx, replica, Observed.RUNNING, now)


def _record_check(
    connection: Connection, ctx: Context, replica: Replica, observed: Observed, now: datetime
) -> bool:
    """Record a health check; return True if the instance counts as gone after it."""
    every = timedelta(seconds=ctx.settings.loss_check_interval_seconds)
    result = record_check(connection, replica, observed, now, every=every, patience=MISSING_FOR)
    return result is Observed.GONE
