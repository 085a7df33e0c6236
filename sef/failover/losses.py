"""Instances that are gone without a word: neither a recommendation nor a notice came.

Two witnesses are needed. EC2 alone could be lagging, or speak of an instance that was replaced by
hand; an agent alone could just have lost its network. What EC2 does not show at all it has to miss
look after look (`sef.sightings`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, exists, func, literal, select

from sef.agents import Agent, read_agent, update_agent
from sef.cloud.ec2 import Instance
from sef.context import Context
from sef.db.tables import agents, incidents, price_series
from sef.failover.incidents.rows import (
    open_incident,
    open_incident_of_primary,
    record_signal,
    update_incident,
)
from sef.failover.standbys.backoff import cool_down_interrupted_pool
from sef.failover.standbys.rows import Replica, missing_replicas, replica_of_instance
from sef.failover.standbys.watch import MISSING_FOR, Observed, record_check
from sef.notifications.events import Event, write_events
from sef.terms import Goal, IncidentKind, IncidentStatus, NotificationKind, Signal, SignalType

PER_CALL = 200
"""Instances that one DescribeInstances is asked for by filter."""
AGENTS_PER_RUN = 2000


def detect_losses(ctx: Context) -> int:
    """Open an incident for each primary that is lost; returns for how many.

    Raises:
        CloudError: EC2 cannot be read; nothing is concluded from that.
    """
    now = ctx.clock()
    silent = ctx.database.read(silent_agents, _silent_since(ctx, now), limit=AGENTS_PER_RUN)
    found = 0
    for start in range(0, len(silent), PER_CALL):
        found += _examine(ctx, silent[start : start + PER_CALL], now)
    return found


def _silent_since(ctx: Context, now: datetime) -> datetime:
    return now - timedelta(seconds=ctx.settings.silence_threshold_seconds)


def _examine(ctx: Context, silent: Sequence[Agent], now: datetime) -> int:
    told = ctx.ec2.instances([a.instance_id for a in silent if a.instance_id])
    if ctx.database.read(missing_replicas, told):
        ctx.database.write(_found_again, ctx, told, now)
    lost = 0
    for agent in silent:
        instance = told.get(agent.instance_id or "")
        if instance is not None and not instance.is_gone:
            continue
        lost += ctx.database.write(
            _record_loss,
            ctx,
            agent,
            instance,
            now,
        )
    return lost


def _record_loss(
    connection: Connection, ctx: Context, told: Agent, instance: Instance | None, now: datetime
) -> bool:
    agent = read_agent(connection, told.id, lock=True)
    if agent != told or agent.instance_id is None:
        return False  # it has another primary, or has moved on otherwise: look again
    if heard_since(connection, agent.id, _silent_since(ctx, now)):
        return False
    if instance is None and not _is_forgotten(connection, ctx, agent.instance_id, now):
        return False
    incident = open_incident(connection, agent.id)
    if incident is not None and incident.is_emergency:
        return False
    state = instance.ec2_state if instance else "not there"
    reason = (
        f"EC2 reports {agent.instance_id} {state}, and the agent has been silent for "
        f"{ctx.settings.silence_threshold_seconds:.0f} s or more"
    )
    inputs = {"ec2_state": state, "silent_for": ctx.settings.silence_threshold_seconds}
    if incident is not None and incident.kind.is_planned:
        update_incident(
            connection, incident, status=IncidentStatus.RELEASED, closed_at=now, reason=reason
        )
        incident = None
    if incident is None:
        incident = open_incident_of_primary(connection, agent, now)
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
        reason,
        agent.id,
        "error",
        inputs,
        incident.id,
        notification=NotificationKind.DETECTION,
    )
    write_events(connection, [event], now)
    return True


def _is_forgotten(connection: Connection, ctx: Context, instance_id: str, now: datetime) -> bool:
    """Whether EC2 has missed a primary that SEF launched, look after look.

    Another may never have existed, or not in this region: no evidence of a loss.
    """
    replica = replica_of_instance(connection, instance_id)
    return replica is not None and _record_check(connection, ctx, replica, Observed.MISSING, now)


def _found_again(
    connection: Connection, ctx: Context, told: Mapping[str, Instance], now: datetime
) -> None:
    for replica in missing_replicas(connection, told):
        _record_check(connection, ctx, replica, Observed.RUNNING, now)


def _record_check(
    connection: Connection, ctx: Context, replica: Replica, sight: Observed, now: datetime
) -> bool:
    every = timedelta(seconds=ctx.settings.loss_check_interval_seconds)
    seen = record_check(connection, replica, sight, now, every=every, patience=MISSING_FOR)
    return seen is Observed.GONE


def heard_since(connection: Connection, agent_id: str, since: datetime) -> bool:
    """Whether the primary has reported since then."""
    return bool(connection.scalar(select(_heard(literal(agent_id), since))))


def _heard(agent_id: ColumnElement[str], since: datetime) -> ColumnElement[bool]:
    series = price_series.c
    return exists().where(series.agent_id == agent_id, series.primary_heard_at > since)


def silent_agents(connection: Connection, since: datetime, *, limit: int) -> Sequence[Agent]:
    """Agents whose known primary has said nothing since then, nor was new, and is not replaced yet.

    What the standby reports is no word of the primary's.
    """
    incident = incidents.c
    heard = _heard(agents.c.id, since)
    in_hand = exists().where(incident.open_agent_id == agents.c.id, incident.goal == Goal.SWITCH)
    rows = connection.execute(
        select(agents)
        .where(
            agents.c.instance_id.is_not(None),
            func.coalesce(agents.c.primary_since, agents.c.created_at) <= since,
            ~heard,
            ~in_hand,
        )
        .order_by(agents.c.id)
        .limit(limit)
    )
    return [Agent(**row._mapping) for row in rows]
