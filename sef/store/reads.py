"""What the API shows: one agent, the fleet, a series, the history."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from sef.core import risk
from sef.core.absence import absence
from sef.core.policy import Goal, next_step
from sef.core.pricing import Flag
from sef.store import cutovers, incidents, pools, replicas, tables
from sef.store.cutovers import Cutover
from sef.store.events import iso
from sef.store.fleet import Agent, read_agent
from sef.store.incidents import Incident
from sef.store.replicas import Replica
from sef.store.tables import (
    agents,
    price_series,
    pricing_reports,
    replica_instances,
    system_events,
)

QUALITY_WINDOW = timedelta(hours=24)


def agent_status(
    connection: Connection, agent_id: str, now: datetime, standby_ttl: timedelta
) -> dict[str, Any]:
    """All that `sef-status` tells of an agent."""
    agent = read_agent(connection, agent_id)
    standby = replicas.live_standby(connection, agent_id)
    incident = incidents.open_incident(connection, agent_id)
    cutover = cutovers.latest_cutover(connection, agent_id)
    return {
        "agent": agent_fields(agent),
        "mode": agent.mode,
        "replica": replica_fields(standby) if standby else None,
        "former_primaries": replicas.former_primaries(connection, agent_id),
        "no_standby": _no_standby(agent, standby, incident, now, standby_ttl),
        "data_quality": data_quality(connection, agent_id),
        "incident": incident_fields(incident) if incident else None,
        "cutover": cutover_fields(connection, cutover) if cutover else None,
    }


def _no_standby(
    agent: Agent,
    standby: Replica | None,
    incident: Incident | None,
    now: datetime,
    standby_ttl: timedelta,
) -> dict[str, Any] | None:
    """Why no standby is ready, and when the next one is tried; None while one is."""
    step = next_step(
        agent.state(now),
        standby.status if standby else None,
        incident.state(agent) if incident else None,
        standby_ttl=standby_ttl,
        now=now,
    )
    until = agent.not_before if agent.is_postponed(now) else None
    found = absence(
        step,
        (standby.status, standby.instance_id) if standby else None,
        (until, agent.put_off_because) if until else None,
        incident.reason if incident and incident.goal is Goal.MONITOR else None,
    )
    if found is None:
        return None
    return {"reason": found.reason, "next_try_at": iso(found.next_try_at)}


def agent_fields(agent: Agent) -> dict[str, Any]:
    return {
        "id": agent.id,
        "instance_id": agent.instance_id,
        "pool_id": agent.pool_id,
        "auto_switch_enabled": agent.auto_switch_enabled,
        "auto_terminate_enabled": agent.auto_terminate_enabled,
        "manual_replica_enabled": agent.manual_replica_enabled,
        "launch_template": agent.launch_template,
        "epoch": agent.epoch,
        "probation_until": iso(agent.probation_until),
        "drill_interval": agent.drill_interval,
        "next_drill_at": iso(agent.next_drill_at),
        "cutover": agent.cutover,
        "created_at": iso(agent.created_at),
        "updated_at": iso(agent.updated_at),
    }


def replica_fields(replica: Replica) -> dict[str, Any]:
    return {
        "id": replica.id,
        "instance_id": replica.instance_id,
        "replica_type": replica.replica_type,
        "pool_id": replica.pool_id,
        "market": replica.market,
        "status": replica.status,
        "reason": replica.reason,
        "created_at": iso(replica.created_at),
        "ready_at": iso(replica.ready_at),
    }


def incident_fields(incident: Incident) -> dict[str, Any]:
    return {
        "id": incident.id,
        "instance_id": incident.instance_id,
        "pool_id": incident.pool_id,
        "kind": incident.kind,
        "status": incident.status,
        "goal": incident.goal,
        "reason": incident.reason,
        "obstacle": incident.obstacle,
        "risk_score": incident.risk_score,
        "opened_at": iso(incident.opened_at),
        "deadline": iso(incident.deadline),
    }


def cutover_fields(connection: Connection, cutover: Cutover) -> dict[str, Any]:
    return {
        "id": cutover.id,
        "epoch": cutover.epoch,
        "incident_id": cutover.incident_id,
        "old_instance_id": cutover.old_instance_id,
        "new_instance_id": cutover.new_instance_id,
        "status": cutover.status,
        "deadline": iso(cutover.deadline),
        "is_hurried": cutover.is_hurried,
        "started_at": iso(cutover.started_at),
        "served_at": iso(cutover.served_at),
        "finished_at": iso(cutover.finished_at),
        "steps": [
            {
                "kind": step.kind,
                "target": step.target,
                "status": step.status,
                "attempts": step.attempts,
                "latency_ms": step.latency_ms,
                "error": step.error,
            }
            for step in cutovers.steps_of(connection, cutover.id)
        ],
    }


def data_quality(connection: Connection, agent_id: str) -> dict[str, Any]:
    """How an agent's points of the last 24 hours came about, counted back from its newest."""
    series = price_series.c
    latest, waiting = connection.execute(
        select(func.max(series.latest_at), func.coalesce(func.sum(series.waiting), 0)).where(
            series.agent_id == agent_id
        )
    ).one()
    counts = dict.fromkeys(Flag, 0)
    if latest is not None:
        columns = pricing_reports.c
        pool_ids = select(series.pool_id).where(series.agent_id == agent_id)
        rows = connection.execute(
            select(columns.data_quality_flag, func.count())
            .where(
                columns.agent_id == agent_id,
                columns.pool_id.in_(pool_ids),
                columns.timestamp > latest - QUALITY_WINDOW,
            )
            .group_by(columns.data_quality_flag)
        )
        counts |= {Flag(flag): count for flag, count in rows}
    return {
        "window_seconds": int(QUALITY_WINDOW.total_seconds()),
        "latest_timestamp": iso(latest),
        "points": sum(counts.values()),
        **{str(flag): count for flag, count in counts.items()},
        "buffered": int(waiting),
    }


def series_points(
    connection: Connection,
    agent_id: str,
    *,
    pool_id: str | None,
    start: datetime | None,
    end: datetime | None,
    limit: int,
) -> Sequence[dict[str, Any]]:
    """The points of one series, or of all of an agent's, oldest first; both ends included."""
    pools = [pool_id] if pool_id is not None else _pools_reported(connection, agent_id)
    columns = pricing_reports.c
    found: list[Row[Any]] = []
    # Each series is in order in the primary key; all of an agent's together would be sorted.
    for pool in pools:
        statement = select(pricing_reports).where(
            columns.agent_id == agent_id, columns.pool_id == pool
        )
        if start is not None:
            statement = statement.where(columns.timestamp >= start)
        if end is not None:
            statement = statement.where(columns.timestamp <= end)
        found += connection.execute(statement.order_by(columns.timestamp).limit(limit)).all()
    found.sort(key=lambda row: (row.timestamp, row.pool_id))
    return [
        {
            "timestamp": iso(row.timestamp),
            "pool_id": row.pool_id,
            "spot_price": float(row.spot_price),
            "data_quality": row.data_quality_flag,
        }
        for row in found[:limit]
    ]


def _pools_reported(connection: Connection, agent_id: str) -> Sequence[str]:
    columns = price_series.c
    return connection.scalars(select(columns.pool_id).where(columns.agent_id == agent_id)).all()


def fleet_page(connection: Connection, *, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Agents in order of their ids, from behind `after` on, each with its standby and incident."""
    replica, incident, cutover = replica_instances.c, tables.incidents.c, tables.cutovers.c
    statement = (
        select(
            agents,
            replica.id.label("replica_id"),
            replica.status.label("replica_status"),
            incident.id.label("incident_id"),
            cutover.status.label("cutover_status"),
        )
        .outerjoin(replica_instances, replica.live_agent_id == agents.c.id)
        .outerjoin(tables.cutovers, cutover.open_agent_id == agents.c.id)
        .outerjoin(tables.incidents, incident.open_agent_id == agents.c.id)
    )
    if after is not None:
        statement = statement.where(agents.c.id > after)
    rows = connection.execute(statement.order_by(agents.c.id).limit(limit)).all()
    reported = _last_reports(connection, [row.id for row in rows])
    return [_fleet_entry(row, reported.get(row.id)) for row in rows]


def _fleet_entry(row: Row[Any], reported_at: datetime | None) -> dict[str, Any]:
    columns = {column.key for column in agents.columns}
    agent = Agent(**{key: value for key, value in row._mapping.items() if key in columns})
    return agent_fields(agent) | {
        "mode": agent.mode,
        "replica_id": row.replica_id,
        "replica_status": row.replica_status,
        "incident_id": row.incident_id,
        "cutover_status": row.cutover_status,
        "reported_at": iso(reported_at),
    }


def _last_reports(connection: Connection, ids: Sequence[str]) -> dict[str, datetime]:
    columns = price_series.c
    rows = connection.execute(
        select(columns.agent_id, func.max(columns.received_at))
        .where(columns.agent_id.in_(ids))
        .group_by(columns.agent_id)
    )
    return {row.agent_id: row[1] for row in rows}


def events_page(
    connection: Connection, agent_id: str, *, before: int | None, limit: int
) -> list[dict[str, Any]]:
    """An agent's history, newest first, from before the event `before` on."""
    read_agent(connection, agent_id)
    columns = system_events.c
    statement: Select[Any] = select(system_events).where(columns.agent_id == agent_id)
    if before is not None:
        statement = statement.where(columns.id < before)
    return [
        {
            "id": row.id,
            "event_type": row.event_type,
            "severity": row.severity,
            "message": row.message,
            "incident_id": row.incident_id,
            "metadata": row.details,
            "created_at": iso(row.created_at),
        }
        for row in connection.execute(statement.order_by(columns.id.desc()).limit(limit))
    ]


def pool_entries(
    connection: Connection, now: datetime, settled_after: timedelta
) -> list[dict[str, Any]]:
    """What is known of each pool that has a past, a primary or a cooldown."""
    histories = pools.pool_histories(connection, now, settled_after)
    leads = pools.lead_times(connection, now)
    primaries = pools.primaries(connection)
    cooldowns = pools.cooldowns(connection, now)
    entries = []
    for pool_id in sorted({*histories, *primaries, *cooldowns}):
        history = histories.get(pool_id, risk.History())
        judged = risk.assess_for_launch(history)
        entries.append(
            {
                "pool_id": pool_id,
                "agents": primaries.get(pool_id, 0),
                "recommendations": history.recommendations,
                "followed": history.terminations,
                "terminations": history.all_terminations,
                "precision": _share(history.precision),
                "recall": _share(history.recall),
                "lead_time_seconds": _spread(leads.get(pool_id, [])),
                "risk": {"score": judged.score, "reasons": list(judged.reasons)},
                "cooldowns": [
                    {"market": row.market, "reason": row.error_code, "until": iso(row.until)}
                    for row in cooldowns.get(pool_id, [])
                ],
            }
        )
    return entries


def _share(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def _spread(values: Sequence[float]) -> dict[str, Any] | None:
    """The least, the median and the most of some seconds."""
    if not values:
        return None
    return {
        "least": round(min(values), 3),
        "median": round(median(values), 3),
        "most": round(max(values), 3),
    }


def answers(connection: Connection) -> None:
    """Read a real table: a node that has lost its cluster still answers SELECT 1."""
    connection.execute(select(agents.c.id).limit(1))
