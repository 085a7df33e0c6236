"""Store replicas: create them, move them from status to status, and read them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Row, bindparam, select

from sef.db.statements import insert_rows, rows_where, swap
from sef.db.tables import agents, replica_instances, retirements
from sef.notifications.events import Event, Severity, write_events
from sef.notifications.matters import in_kind
from sef.notifications.outbox import Notification
from sef.terms import LIVE, Market, NotificationKind, ReplicaStatus, ReplicaType, check_transition

_ENDED = (ReplicaStatus.TERMINATED, ReplicaStatus.FAILED)

_CURRENT = select(replica_instances).where(
    replica_instances.c.agent_id == bindparam("agent"),
    replica_instances.c.status.not_in(_ENDED),
)

_STAMPS = {
    ReplicaStatus.READY: "ready_at",
    ReplicaStatus.PROMOTED: "promoted_at",
    ReplicaStatus.TERMINATED: "terminated_at",
}
"""Columns that record the time at which a replica reached a status."""

_MESSAGES = {
    ReplicaStatus.READY: "{standby} is ready",
    ReplicaStatus.PROMOTED: "{instance} is promoted",
    ReplicaStatus.RELEASING: "{standby} is released",
    ReplicaStatus.TERMINATED: "{instance} is terminated",
    ReplicaStatus.FAILED: "{standby} failed",
}
"""Message of the event of each status."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A row of `replica_instances`.

    Attributes:
        live_agent_id: the agent while the replica is its standby, launching or ready; else None.
        relief_agent_id: the agent while the replica is the relief of its standby: it launches
            beside it, and takes its place when it runs or when the standby ends.
        relief_not_before: the earliest launch of a relief for this standby. None: SEF has not
            decided on one.
        recommended_at: arrival of the latest rebalance recommendation for this standby.
        checked_at: time of the latest health check.
        misses: number of consecutive checks in which the instance was missing.
        call_at: time at which SEF committed to terminate it; None: it did not.
    """

    id: str
    agent_id: str
    instance_id: str | None
    replica_type: ReplicaType
    pool_id: str | None
    market: Market | None
    status: ReplicaStatus
    reason: str
    incident_id: str | None
    live_agent_id: str | None
    relief_agent_id: str | None
    relief_not_before: datetime | None
    recommended_at: datetime | None
    created_at: datetime
    launched_at: datetime | None
    ready_at: datetime | None
    checked_at: datetime | None
    misses: int
    promoted_at: datetime | None
    call_at: datetime | None
    terminated_at: datetime | None
    version: int


def live_standby(connection: Connection, agent_id: str) -> Replica | None:
    """Return the standby of an agent, launching or ready, if it has one."""
    return _one(connection, live_agent_id=agent_id)


def relief_of(connection: Connection, agent_id: str) -> Replica | None:
    """Return the relief of an agent's standby, if there is one."""
    return _one(connection, relief_agent_id=agent_id)


def standby_with_instance(
    connection: Connection, agent_id: str, instance_id: str
) -> Replica | None:
    """Return the standby of an agent, or its relief, if the instance is that replica's."""
    replica = replica_of_instance(connection, instance_id)
    waiting = (replica.live_agent_id, replica.relief_agent_id) if replica else ()
    return replica if agent_id in waiting else None


def read_replica(connection: Connection, replica_id: str) -> Replica | None:
    """Return a replica by its id."""
    return _one(connection, id=replica_id)


def replica_of_instance(connection: Connection, instance_id: str) -> Replica | None:
    """Return the replica for which an instance was launched; None if SEF did not launch it."""
    return _one(connection, instance_id=instance_id)


def missing_replicas(connection: Connection, instance_ids: Collection[str]) -> Sequence[Replica]:
    """Return the replicas of these instances that were missing in their latest check."""
    columns = replica_instances.c
    statement = select(replica_instances).where(
        columns.instance_id.in_(sorted(instance_ids)), columns.misses > 0
    )
    return _replicas(connection.execute(statement))


def pools_of(connection: Connection, instance_ids: Collection[str]) -> dict[str, str | None]:
    """Return the pool of each of these instances that SEF launched, by instance id."""
    columns = replica_instances.c
    rows = connection.execute(
        select(columns.instance_id, columns.pool_id).where(columns.instance_id.in_(instance_ids))
    )
    return {row.instance_id: row.pool_id for row in rows}


def latest_failed_replica(connection: Connection, agent_id: str) -> Replica | None:
    """Return the latest standby that failed. Its `reason` is the cause."""
    return _one(connection, newest_by="created_at", agent_id=agent_id, status=ReplicaStatus.FAILED)


def current_replicas(connection: Connection, agent_id: str) -> Sequence[Replica]:
    """Return the replicas of an agent that are neither terminated nor failed."""
    return _replicas(connection.execute(_CURRENT, {"agent": agent_id}))


def create_replica(
    connection: Connection,
    agent_id: str,
    replica_type: ReplicaType,
    reason: str,
    incident_id: str | None,
    now: datetime,
    *,
    is_relief: bool = False,
) -> str:
    """Create a launching replica and return its id.

    The UNIQUE keys on `live_agent_id` and `relief_agent_id` reject a second standby of the agent,
    and a second relief of its standby.
    """
    replica_id = f"replica-{uuid4().hex[:16]}"
    row = {
        "id": replica_id,
        "agent_id": agent_id,
        "replica_type": replica_type,
        "status": ReplicaStatus.LAUNCHING,
        "reason": reason,
        "incident_id": incident_id,
        "relief_agent_id" if is_relief else "live_agent_id": agent_id,
        "created_at": now,
    }
    insert_rows(connection, replica_instances, row)
    message = f"launching {'another' if is_relief else 'a'} standby: {reason}"
    event = _event(agent_id, replica_id, incident_id, ReplicaStatus.LAUNCHING, message)
    write_events(connection, [event], now)
    return replica_id


def move_replica(
    connection: Connection,
    replica: Replica,
    status: ReplicaStatus,
    reason: str,
    now: datetime,
    *,
    severity: Severity = "info",
    calls: Sequence[dict[str, Any]] = (),
    events: Sequence[Event] = (),
    notifications: Sequence[Notification] = (),
    **values: Any,
) -> None:
    """Move a replica to another status of the transition table, and write the event.

    When a standby ends, its relief becomes the agent's standby in the same transaction.

    Args:
        calls: the calls to EC2 that the move took, as `sef.cloud.ec2.timed` records them.
        events: further events to write after the replica's own.
        notifications: further notifications to put into the outbox.
        values: further columns to change.

    Raises:
        IllegalTransition: the transition table does not contain this move.
        VersionConflict: the replica has changed since it was read.
    """
    check_transition(replica.status, status)
    if status in _STAMPS:
        values[_STAMPS[status]] = now
    if status is ReplicaStatus.FAILED:
        values["reason"] = reason
    change_replica(
        connection,
        replica,
        status=status,
        live_agent_id=replica.live_agent_id if status in LIVE else None,
        relief_agent_id=replica.relief_agent_id if status in LIVE else None,
        **values,
    )
    if status not in LIVE and replica.live_agent_id and replica.relief_not_before is not None:
        _make_relief_the_standby(connection, replica.agent_id)
    instance_id = values.get("instance_id") or replica.instance_id
    standby = f"standby {instance_id}" if instance_id else "standby without an instance"
    summary = _MESSAGES[status].format(standby=standby, instance=instance_id or standby)
    message = f"{summary}: {reason}"
    event = _event(
        replica.agent_id, replica.id, replica.incident_id, status, message, severity, calls
    )
    if event.notification is not None:
        # The same refusal is met by each retry, and each retry is another replica.
        about = (in_kind(reason), last_ready(connection, replica.agent_id))
        event = replace(event, matter=about)
    write_events(connection, [event, *events], now, notifications)


def last_ready(connection: Connection, agent_id: str) -> str | None:
    """Return the id of the agent's standby that was ready last, if one ever was.

    An obstacle to a launch has ended when a standby is ready.
    """
    columns = replica_instances.c
    newest = (
        select(columns.id)
        .where(columns.agent_id == agent_id, columns.ready_at.is_not(None))
        .order_by(columns.ready_at.desc(), columns.id)
        .limit(1)
    )
    return connection.scalar(newest)


def _make_relief_the_standby(connection: Connection, agent_id: str) -> None:
    relief = relief_of(connection, agent_id)
    if relief is not None:
        change_replica(connection, relief, live_agent_id=agent_id, relief_agent_id=None)


def change_replica(connection: Connection, replica: Replica, **values: Any) -> None:
    """Change columns of a replica.

    Raises:
        VersionConflict: the replica has changed since it was read.
    """
    key = {"id": replica.id, "status": replica.status}
    swap(connection, replica_instances, key, version=replica.version, **values)


def claimed_instances(connection: Connection, ids: Collection[str]) -> set[str]:
    """Return the instances that a row refers to.

    The rows are agents, replicas that have not ended, and retirements without a termination.
    """
    wanted = sorted(ids)
    replica, retirement = replica_instances.c, retirements.c
    statements = (
        select(agents.c.instance_id).where(agents.c.instance_id.in_(wanted)),
        select(replica.instance_id).where(
            replica.instance_id.in_(wanted), replica.status.not_in(_ENDED)
        ),
        select(retirement.instance_id).where(
            retirement.instance_id.in_(wanted), retirement.terminated_at.is_(None)
        ),
    )
    return {claimed for statement in statements for claimed in connection.scalars(statement)}


def known_instances(
    connection: Connection, ids: Collection[str], other_than: Collection[str]
) -> set[str]:
    """Return the instances that an agent, a retirement or another replica has, also ended ones.

    Args:
        other_than: ids of the replicas that do not count.
    """
    wanted = sorted(ids)
    replica = replica_instances.c
    statements = (
        select(agents.c.instance_id).where(agents.c.instance_id.in_(wanted)),
        select(replica.instance_id).where(
            replica.instance_id.in_(wanted), replica.id.not_in(sorted(other_than))
        ),
        select(retirements.c.instance_id).where(retirements.c.instance_id.in_(wanted)),
    )
    return {known for statement in statements for known in connection.scalars(statement)}


def _one(connection: Connection, *, newest_by: str | None = None, **key: Any) -> Replica | None:
    rows = rows_where(connection, replica_instances, key, newest_by=newest_by)
    return next(iter(_replicas(rows)), None)


def _replicas(rows: Iterable[Row[Any]]) -> Sequence[Replica]:
    return [
        Replica(
            **{
                **row._mapping,
                "replica_type": ReplicaType(row.replica_type),
                "status": ReplicaStatus(row.status),
                "market": row.market and Market(row.market),
            }
        )
        for row in rows
    ]


def _event(
    agent_id: str,
    replica_id: str,
    incident_id: str | None,
    status: ReplicaStatus,
    message: str,
    severity: Severity = "info",
    calls: Sequence[dict[str, Any]] = (),
) -> Event:
    details: dict[str, Any] = {"replica_id": replica_id, "status": status}
    if calls:
        details["calls"] = list(calls)
    # If a standby fails outside an incident, no notification of an incident reports it.
    notification = (
        NotificationKind.ALERT if status is ReplicaStatus.FAILED and incident_id is None else None
    )
    return Event(
        f"replica_{status}",
        message,
        agent_id=agent_id,
        severity=severity,
        details=details,
        incident_id=incident_id,
        notification=notification,
    )
