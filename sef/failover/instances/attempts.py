"""Store launch attempts: one row for each instance that SEF has decided to launch.

1. `open_attempt` commits to launching one instance: pool, market, parameters and client token.
2. `calls.record_call` notes that the attempt's own call is about to be made. Or `calls.join_call`
   commits several attempts with equal parameters to one batched call.
3. `close_attempt` records the instance that EC2 launched, or the error code that it returned.
4. `cancel_unsent` closes an attempt whose call was not made yet.

Only the last attempt of a replica can be open.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    distinct,
    func,
    insert,
    select,
    update,
)

from sef.db.database import VersionConflict
from sef.db.tables import incidents, launch_attempts, launch_calls, replica_instances
from sef.terms import LOSING, Goal, Market, ReplicaStatus

IS_EMERGENCY = and_(incidents.c.goal == Goal.SWITCH, incidents.c.kind.in_(LOSING))
"""Condition that an instance is being lost, or is lost, and has to be replaced."""

MAY_SERVE = and_(
    launch_attempts.c.status == "launched",
    replica_instances.c.instance_id == launch_attempts.c.instance_id,
    replica_instances.c.status.in_(
        [ReplicaStatus.LAUNCHING, ReplicaStatus.READY, ReplicaStatus.PROMOTED]
    ),
)
"""Condition that the instance of an attempt serves, or is to serve."""

_WAITING_AGENT = func.coalesce(
    replica_instances.c.live_agent_id, replica_instances.c.relief_agent_id
)
"""The agent that waits for the instance of a replica; NULL once it is not needed any more."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of `launch_attempts`.

    Attributes:
        attempt: number of the attempt, counted from 1 for each replica.
        status: open, launched or refused.
        launch_fingerprint: equal for attempts that one call can launch together.
        calls: number of RunInstances calls made for this attempt, including one about to be made.
        called_at: time of the first of these calls.
        call_token: client token of the batched call that the attempt joined, if any.
        tagged_at: time at which an instance of a batched call received its agent's tags.
        attributes: attributes to set after the launch; None: none.
        attributes_set_at: time at which EC2 accepted or refused them.
    """

    client_token: str
    replica_id: str
    attempt: int
    pool_id: str
    market: Market
    parameters: dict[str, Any]
    launch_fingerprint: str
    status: str
    instance_id: str | None
    error_code: str | None
    created_at: datetime
    calls: int
    called_at: datetime | None
    call_token: str | None
    answered_at: datetime | None
    tagged_at: datetime | None
    attributes: dict[str, Any] | None = None
    attributes_set_at: datetime | None = None


def attempts_of(connection: Connection, replica_id: str) -> Sequence[Attempt]:
    """Return the launch attempts of a replica, oldest first. Only the last one can be open."""
    columns = launch_attempts.c
    return read_attempts(
        connection,
        select(launch_attempts).where(columns.replica_id == replica_id).order_by(columns.attempt),
    )


def open_attempt(
    connection: Connection,
    *,
    client_token: str,
    replica_id: str,
    number: int,
    pool_id: str,
    market: Market,
    parameters: dict[str, Any],
    launch_fingerprint: str,
    attributes: dict[str, Any] | None,
    now: datetime,
) -> None:
    """Commit to launching one instance.

    If two workers plan the same attempt, the UNIQUE key on replica and number rejects the second.
    """
    connection.execute(
        insert(launch_attempts).values(
            client_token=client_token,
            replica_id=replica_id,
            attempt=number,
            pool_id=pool_id,
            market=market,
            parameters=parameters,
            launch_fingerprint=launch_fingerprint,
            attributes=attributes,
            status="open",
            created_at=now,
        )
    )


def close_attempt(
    connection: Connection,
    token: str,
    now: datetime,
    *,
    instance_id: str | None = None,
    error_code: str | None = None,
) -> None:
    """Record EC2's answer to an attempt: an instance or an error code.

    Raises:
        VersionConflict: the attempt is no longer open.
    """
    closed = connection.execute(
        update(launch_attempts)
        .where(launch_attempts.c.client_token == token, launch_attempts.c.status == "open")
        .values(
            status="launched" if instance_id else "refused",
            instance_id=instance_id,
            error_code=error_code,
            answered_at=now,
        )
    )
    if closed.rowcount != 1:
        raise VersionConflict


def cancel_unsent(connection: Connection, token: str, code: str, now: datetime) -> bool:
    """Close an attempt whose call was not made, so that it launched nothing.

    Return False if the call was made, or is about to be.
    """
    return _cancel(connection, launch_attempts.c.client_token == token, code, now) == 1


def cancel_unsent_in_pool(
    connection: Connection, pool_id: str, market: Market, code: str, now: datetime
) -> int:
    """Close the attempts in a pool that wait for their first call; return their number.

    EC2 has just refused a launch in this pool and would refuse these launches too.
    """
    columns = launch_attempts.c
    return _cancel(
        connection, and_(columns.pool_id == pool_id, columns.market == market), code, now
    )


def emergencies_waiting(
    connection: Connection, deadline: datetime | None, *, other_than: str
) -> int:
    """Return the number of calls that waiting emergencies need.

    Attempts with equal fingerprints need one call together.

    Args:
        deadline: count only emergencies with an earlier deadline; None counts all emergencies.
        other_than: the caller's own fingerprint. Attempts with the same fingerprint join the
            caller's call, so they are not counted.
    """
    attempt = launch_attempts.c
    waiting = (
        select(func.count(distinct(attempt.launch_fingerprint)))
        .select_from(launch_attempts)
        .join(replica_instances, replica_instances.c.id == attempt.replica_id)
        .join(incidents, incidents.c.open_agent_id == _WAITING_AGENT)
        .where(
            attempt.status == "open",
            attempt.calls == 0,
            attempt.launch_fingerprint != other_than,
            IS_EMERGENCY,
        )
    )
    if deadline is not None:
        waiting = waiting.where(incidents.c.deadline < deadline)
    return connection.scalar(waiting) or 0


def spot_launches_since(connection: Connection, since: datetime) -> dict[str, int]:
    """Return the number of spot launches, by pool id.

    Launches that were decided after `since` count, unless EC2 refused them.
    """
    columns = launch_attempts.c
    rows = connection.execute(
        select(columns.pool_id, func.count().label("launches"))
        .where(
            columns.created_at > since,
            columns.market == Market.SPOT,
            columns.status != "refused",
        )
        .group_by(columns.pool_id)
    )
    return {row.pool_id: row.launches for row in rows}


def open_tokens(connection: Connection) -> set[str]:
    """Return the client tokens of the open attempts: the effect of their calls is unknown."""
    columns = launch_attempts.c
    is_open = columns.status == "open"
    return set(
        connection.scalars(
            select(func.coalesce(columns.call_token, columns.client_token)).where(is_open)
        )
    )


def call_sizes(connection: Connection, tokens: Collection[str]) -> Mapping[str, int]:
    """Return the size of each batched call, by client token. Other tokens are left out."""
    columns = launch_calls.c
    rows = connection.execute(
        select(columns.client_token, columns.size).where(columns.client_token.in_(sorted(tokens)))
    )
    return {row.client_token: row.size for row in rows}


def by_deadline(statement: Select[Any]) -> Select[Any]:
    """Select attempts by urgency.

    Order: replicas still needed, then emergencies, then the closest deadline.
    """
    replica, incident = replica_instances.c, incidents.c
    deadline = case((IS_EMERGENCY, incident.deadline))
    return (
        statement.select_from(launch_attempts)
        .join(replica_instances, replica.id == launch_attempts.c.replica_id)
        .outerjoin(incidents, incident.open_agent_id == _WAITING_AGENT)
        .order_by(
            _WAITING_AGENT.is_(None),
            case((IS_EMERGENCY, 0), else_=1),
            deadline.is_(None),
            deadline,
            replica.id,
        )
    )


def read_attempts(connection: Connection, statement: Select[Any]) -> Sequence[Attempt]:
    """Return the attempts that a statement selects."""
    rows = connection.execute(statement)
    return [Attempt(**{**row._mapping, "market": Market(row.market)}) for row in rows]


def _cancel(
    connection: Connection, condition: ColumnElement[bool], code: str, now: datetime
) -> int:
    columns = launch_attempts.c
    return connection.execute(
        update(launch_attempts)
        .where(condition, columns.status == "open", columns.calls == 0)
        .values(status="refused", error_code=code, answered_at=now)
    ).rowcount
