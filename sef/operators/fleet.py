"""Read pages of the fleet and of an agent's history."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from sef.agents import Agent, read_agent
from sef.clock import iso
from sef.db import tables
from sef.db.tables import agents, price_series, replica_instances, system_events
from sef.failover.instances.kept_orphans import count_kept
from sef.operators.status import agent_fields
from sef.parsing import parse_count


def fleet_page(connection: Connection, *, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Return the agents after the id `after`, in order of ids, with standby and incident.

    Raises:
        Refused: `invalid_limit`.
    """
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
    size = parse_count(limit, "limit")
    rows = connection.execute(statement.order_by(agents.c.id).limit(size)).all()
    ids = [row.id for row in rows]
    last_reports = _last_reports(connection, ids)
    orphans = count_kept(connection, ids)
    return [
        _fleet_entry(row, last_reports.get(row.id)) | {"orphans": orphans.get(row.id, 0)}
        for row in rows
    ]


def events_page(
    connection: Connection, agent_id: str, *, before: int | None, limit: int
) -> list[dict[str, Any]]:
    """Return the events of an agent that are older than the event id `before`, newest first.

    Raises:
        AgentNotFound: no agent has this id.
        Refused: `invalid_before` or `invalid_limit`.
    """
    read_agent(connection, agent_id)
    columns = system_events.c
    statement: Select[Any] = select(system_events).where(columns.agent_id == agent_id)
    if before is not None:
        statement = statement.where(columns.id < parse_count(before, "before"))
    size = parse_count(limit, "limit")
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
        for row in connection.execute(statement.order_by(columns.id.desc()).limit(size))
    ]


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
    """Return the time of the last pricing report of each agent, by agent id."""
    columns = price_series.c
    rows = connection.execute(
        select(columns.agent_id, func.max(columns.received_at))
        .where(columns.agent_id.in_(ids))
        .group_by(columns.agent_id)
    )
    return {row.agent_id: row[1] for row in rows}
