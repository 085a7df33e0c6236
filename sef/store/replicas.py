"""Replicas, retirements, and the pools that have no capacity."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Row, bindparam, exists, select, update

from sef.core.notices import Moment
from sef.core.replica import LIVE, Market, ReplicaType, Status, check_transition
from sef.store.events import Event, Severity, iso, write_events
from sef.store.notifications import Note
from sef.store.statements import insert_missing, insert_rows, rows_where, swap, upsert
from sef.store.tables import (
    agents,
    cutovers,
    replica_instances,
    retirements,
    unavailable_pools,
)


@dataclass(frozen=True, slots=True)
class Replica:
    id: str
    agent_id: str
    instance_id: str | None
    replica_type: ReplicaType
    pool_id: str | None
    market: Market | None
    status: Status
    reason: str
    incident_id: str | None
    live_agent_id: str | None
    created_at: datetime
    launched_at: datetime | None
    ready_at: datetime | None
    checked_at: datetime | None
    misses: int
    promoted_at: datetime | None
    terminated_at: datetime | None
    version: int


@dataclass(frozen=True, slots=True)
class Retirement:
    instance_id: str
    agent_id: str
    reason: str
    not_before: datetime
    misses: int
    terminated_at: datetime | None
    obstacle: str | None
    incident_id: str | None


def live_standby(connection: Connection, agent_id: str) -> Replica | None:
    return _one(connection, live_agent_id=agent_id)


def read_replica(connection: Connection, replica_id: str) -> Replica | None:
    return _one(connection, id=replica_id)


def replica_of_instance(connection: Connection, instance_id: str) -> Replica | None:
    return _one(connection, instance_id=instance_id)


def missed_before(connection: Connection, instance_ids: Collection[str]) -> Sequence[Replica]:
    """Those of the instances' replicas that the last look at EC2 did not find."""
    columns = replica_instances.c
    statement = select(replica_instances).where(
        columns.instance_id.in_(sorted(instance_ids)), columns.misses > 0
    )
    return _replicas(connection.execute(statement))


def pools_of(connection: Connection, instance_ids: Collection[str]) -> dict[str, str | None]:
    """By instance that SEF launched, its pool."""
    columns = replica_instances.c
    rows = connection.execute(
        select(columns.instance_id, columns.pool_id).where(columns.instance_id.in_(instance_ids))
    )
    return {row.instance_id: row.pool_id for row in rows}


def latest_failed(connection: Connection, agent_id: str) -> Replica | None:
    """The last standby that failed; its `reason` says why."""
    return _one(connection, newest_by="created_at", agent_id=agent_id, status=Status.FAILED)


_CURRENT = select(replica_instances).where(
    replica_instances.c.agent_id == bindparam("agent"),
    replica_instances.c.status.not_in([Status.TERMINATED, Status.FAILED]),
)


def current(connection: Connection, agent_id: str) -> Sequence[Replica]:
    """The replicas of an agent that are not over: a standby, those that end, primaries."""
    return _replicas(connection.execute(_CURRENT, {"agent": agent_id}))


def superseded(connection: Connection, agent_id: str) -> Sequence[Replica]:
    """Former primaries that, as far as is known, still run."""
    columns = replica_instances.c
    primary = select(agents.c.instance_id).where(agents.c.id == agent_id).scalar_subquery()
    statement = select(replica_instances).where(
        columns.agent_id == agent_id,
        columns.status == Status.PROMOTED,
        columns.instance_id != primary,
    )
    return _replicas(connection.execute(statement))


def former_primaries(connection: Connection, agent_id: str) -> list[dict[str, Any]]:
    """Instances that SEF launched, that were the primary, and that run as far as is known.

    `terminated_at` is the earliest time at which SEF ends one; None: it is left to its operator.
    """
    due = planned_retirements(connection, agent_id)
    return [
        {
            "instance_id": replica.instance_id,
            "pool_id": replica.pool_id,
            "promoted_at": iso(replica.promoted_at),
            "terminated_at": iso(due.get(replica.instance_id or "")),
        }
        for replica in superseded(connection, agent_id)
    ]


def create_replica(
    connection: Connection,
    agent_id: str,
    replica_type: ReplicaType,
    reason: str,
    incident_id: str | None,
    now: datetime,
) -> str:
    """Write down that an agent shall have a standby. The UNIQUE key refuses a second live one."""
    replica_id = f"replica-{uuid4().hex[:16]}"
    row = {
        "id": replica_id,
        "agent_id": agent_id,
        "replica_type": replica_type,
        "status": Status.LAUNCHING,
        "reason": reason,
        "incident_id": incident_id,
        "live_agent_id": agent_id,
        "created_at": now,
    }
    insert_rows(connection, replica_instances, row)
    said = f"launching a standby: {reason}"
    event = _event(agent_id, replica_id, incident_id, Status.LAUNCHING, said)
    write_events(connection, [event], now)
    return replica_id


_STAMPS = {
    Status.READY: "ready_at",
    Status.PROMOTED: "promoted_at",
    Status.TERMINATED: "terminated_at",
}

_WORDS = {
    Status.READY: "standby {instance} is ready",
    Status.PROMOTED: "{instance} is promoted",
    Status.RELEASING: "standby {instance} is released",
    Status.TERMINATED: "{instance} is terminated",
    Status.FAILED: "standby {instance} failed",
}


def move_replica(
    connection: Connection,
    replica: Replica,
    status: Status,
    reason: str,
    now: datetime,
    *,
    severity: Severity = "info",
    calls: Sequence[dict[str, Any]] = (),
    events: Sequence[Event] = (),
    notes: Sequence[Note] = (),
    **values: Any,
) -> None:
    """Make one move of the transition table, with its event row.

    `calls` are those to EC2 that it took, as `sef.cloud.timing` tells them. `events` and `notes`
    are written with its own event.

    Raises:
        IllegalTransition: the table does not have it.
        Stale: the replica has moved since it was read.
    """
    check_transition(replica.status, status)
    if status in _STAMPS:
        values[_STAMPS[status]] = now
    if status is Status.FAILED:
        values["reason"] = reason
    change_replica(
        connection,
        replica,
        status=status,
        live_agent_id=replica.agent_id if status in LIVE else None,
        **values,
    )
    instance = values.get("instance_id") or replica.instance_id or "that was not launched"
    message = f"{_WORDS[status].format(instance=instance)}: {reason}"
    event = _event(
        replica.agent_id, replica.id, replica.incident_id, status, message, severity, calls
    )
    write_events(connection, [event, *events], now, notes)


def change_replica(connection: Connection, replica: Replica, **values: Any) -> None:
    """Change columns of a replica that was read; Stale if it has moved since."""
    key = {"id": replica.id, "status": replica.status}
    swap(connection, replica_instances, key, version=replica.version, **values)


def mark_unavailable(
    connection: Connection,
    pool_id: str,
    market: Market,
    code: str,
    now: datetime,
    pause: timedelta,
) -> None:
    """Leave a pool alone for a time, or for longer if that was said before.

    A storm says so with every signal, and all of them would wait for this one row: what is nearly
    said already is not said again.
    """
    key = {"pool_id": pool_id, "market": market}
    said = rows_where(connection, unavailable_pools, key).one_or_none()
    if said is None or said.until < now + 0.9 * pause:
        until = now + pause
        row = {"pool_id": pool_id, "market": market, "error_code": code, "until": until}
        upsert(connection, unavailable_pools, [row])


_UNAVAILABLE = select(unavailable_pools.c.pool_id, unavailable_pools.c.market).where(
    unavailable_pools.c.until > bindparam("now")
)


def unavailable(connection: Connection, now: datetime) -> Collection[tuple[str, Market]]:
    rows = connection.execute(_UNAVAILABLE, {"now": now})
    return {(row.pool_id, Market(row.market)) for row in rows}


def retire(
    connection: Connection,
    agent_id: str,
    instance_id: str,
    reason: str,
    not_before: datetime,
    incident_id: str | None,
) -> None:
    """Write down that a former primary shall be terminated, once."""
    insert_missing(
        connection,
        retirements,
        [
            {
                "instance_id": instance_id,
                "agent_id": agent_id,
                "reason": reason,
                "not_before": not_before,
                "incident_id": incident_id,
            }
        ],
    )


_DUE = select(retirements).where(
    retirements.c.agent_id == bindparam("agent"),
    retirements.c.terminated_at.is_(None),
    retirements.c.obstacle.is_(None),
    retirements.c.not_before <= bindparam("now"),
    ~exists().where(
        cutovers.c.open_agent_id == retirements.c.agent_id, cutovers.c.served_at.is_(None)
    ),
)


def due_retirements(connection: Connection, agent_id: str, now: datetime) -> Sequence[Retirement]:
    """Former primaries to be terminated now: none until the new one has all that it is to have."""
    rows = connection.execute(_DUE, {"agent": agent_id, "now": now})
    return [Retirement(**row._mapping) for row in rows]


def planned_retirements(connection: Connection, agent_id: str) -> dict[str, datetime]:
    """The former primaries to be terminated, now or later, each with the earliest time for it."""
    columns = retirements.c
    rows = connection.execute(
        select(columns.instance_id, columns.not_before).where(
            columns.agent_id == agent_id,
            columns.terminated_at.is_(None),
            columns.obstacle.is_(None),
        )
    )
    return {row.instance_id: row.not_before for row in rows}


def put_off_retirement(connection: Connection, retirement: Retirement, until: datetime) -> None:
    """Try again later: EC2 does not know the instance, not yet or not any more."""
    columns = retirements.c
    connection.execute(
        update(retirements)
        .where(columns.instance_id == retirement.instance_id, columns.misses == retirement.misses)
        .values(not_before=until, misses=retirement.misses + 1)
    )


def finish_retirement(
    connection: Connection, instance_id: str, now: datetime, *, obstacle: str | None = None
) -> bool:
    """Write down that the instance is terminated, or why it is not; False when that was done."""
    columns = retirements.c
    answer = connection.execute(
        update(retirements)
        .where(
            columns.instance_id == instance_id,
            columns.terminated_at.is_(None),
            columns.obstacle.is_(None),
        )
        .values(terminated_at=None if obstacle else now, obstacle=obstacle)
    )
    return answer.rowcount == 1


def claimed_instances(connection: Connection, ids: Collection[str]) -> set[str]:
    """Those of the instances that some row still has a use for, or is about to terminate."""
    wanted = sorted(ids)
    over = [Status.TERMINATED, Status.FAILED]
    replica, retirement = replica_instances.c, retirements.c
    statements = (
        select(agents.c.instance_id).where(agents.c.instance_id.in_(wanted)),
        select(replica.instance_id).where(
            replica.instance_id.in_(wanted), replica.status.not_in(over)
        ),
        select(retirement.instance_id).where(
            retirement.instance_id.in_(wanted), retirement.terminated_at.is_(None)
        ),
    )
    return {found for statement in statements for found in connection.scalars(statement)}


def _one(connection: Connection, *, newest_by: str | None = None, **key: Any) -> Replica | None:
    rows = rows_where(connection, replica_instances, key, newest_by=newest_by)
    return next(iter(_replicas(rows)), None)


def _replicas(rows: Iterable[Row[Any]]) -> Sequence[Replica]:
    return [
        Replica(
            **{
                **row._mapping,
                "replica_type": ReplicaType(row.replica_type),
                "status": Status(row.status),
                "market": row.market and Market(row.market),
            }
        )
        for row in rows
    ]


def _event(
    agent_id: str,
    replica_id: str,
    incident_id: str | None,
    status: Status,
    message: str,
    severity: Severity = "info",
    calls: Sequence[dict[str, Any]] = (),
) -> Event:
    details: dict[str, Any] = {"replica_id": replica_id, "status": status}
    if calls:
        details["calls"] = list(calls)
    # Of a standby that belongs to no incident nobody would hear otherwise.
    moment = Moment.ALERT if status is Status.FAILED and incident_id is None else None
    return Event(f"replica_{status}", message, agent_id, severity, details, incident_id, moment)
