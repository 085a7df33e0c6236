"""Launch attempts, one for each instance that is wished for, and the calls that make them."""

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
from sef.failover.standbys.rows import Replica
from sef.terms import LOSING, Goal, Market, ReplicaStatus

MAX_PER_CALL = 50
"""Instances of one call."""


@dataclass(frozen=True, slots=True)
class Attempt:
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
    call_token: str | None
    answered_at: datetime | None
    tagged_at: datetime | None


@dataclass(frozen=True, slots=True)
class LaunchCall:
    """A RunInstances call, for one attempt or for several.

    Attributes:
        calls: how often it was made, or was about to be.
        made_at: when it was for the last time; None where it is for one.
    """

    client_token: str
    parameters: Mapping[str, Any]
    size: int
    calls: int
    made_at: datetime | None


def attempts_of(connection: Connection, replica_id: str) -> Sequence[Attempt]:
    """The launch attempts of a replica, oldest first; at most the last one is open."""
    columns = launch_attempts.c
    return _attempts(
        connection,
        select(launch_attempts).where(columns.replica_id == replica_id).order_by(columns.attempt),
    )


def open_attempt(
    connection: Connection,
    replica: Replica,
    number: int,
    token: str,
    pool_id: str,
    market: Market,
    parameters: dict[str, Any],
    launch_fingerprint: str,
    now: datetime,
) -> None:
    """Commit to one instance. The UNIQUE number lets one of two planners through.

    `launch_fingerprint` is the same for those that one call can launch together.
    """
    connection.execute(
        insert(launch_attempts).values(
            client_token=token,
            replica_id=replica.id,
            attempt=number,
            pool_id=pool_id,
            market=market,
            parameters=parameters,
            launch_fingerprint=launch_fingerprint,
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
    """Write down what EC2's answer is for an attempt.

    Raises:
        Stale: somebody else has meanwhile.
    """
    answer = connection.execute(
        update(launch_attempts)
        .where(launch_attempts.c.client_token == token, launch_attempts.c.status == "open")
        .values(
            status="launched" if instance_id else "refused",
            instance_id=instance_id,
            error_code=error_code,
            answered_at=now,
        )
    )
    if answer.rowcount != 1:
        raise VersionConflict


def call_of(connection: Connection, attempt: Attempt) -> LaunchCall:
    """The call that makes an attempt: one of its own, until it has joined one with others."""
    if attempt.call_token is None:
        return LaunchCall(attempt.client_token, attempt.parameters, 1, attempt.calls, None)
    columns = launch_calls.c
    row = connection.execute(
        select(
            columns.client_token,
            columns.parameters,
            columns.size,
            columns.calls,
            columns.made_at,
        ).where(columns.client_token == attempt.call_token)
    ).one()
    return LaunchCall(**row._mapping)


def record_call(connection: Connection, call: LaunchCall, now: datetime) -> bool:
    """Write down that a call is about to be made; False if somebody else makes, or made it."""
    if call.size == 1:
        columns = launch_attempts.c
        noted = connection.execute(
            update(launch_attempts)
            .where(
                columns.client_token == call.client_token,
                columns.status == "open",
                columns.calls == call.calls,
                columns.call_token.is_(None),
            )
            .values(calls=call.calls + 1)
        )
    else:
        noted = connection.execute(
            update(launch_calls)
            .where(
                launch_calls.c.client_token == call.client_token,
                launch_calls.c.calls == call.calls,
            )
            .values(calls=call.calls + 1, made_at=now)
        )
    return noted.rowcount == 1


def joinable_attempts(connection: Connection, attempt: Attempt) -> Sequence[str]:
    """The tokens of other attempts that wait for a call like this one's, closest deadline first."""
    columns = launch_attempts.c
    return connection.scalars(
        _by_deadline(select(columns.client_token))
        .where(
            columns.launch_fingerprint == attempt.launch_fingerprint,
            columns.status == "open",
            columns.calls == 0,
            columns.call_token.is_(None),
            columns.client_token != attempt.client_token,
            replica_instances.c.status == ReplicaStatus.LAUNCHING,
        )
        .limit(MAX_PER_CALL - 1)
    ).all()


def join_call(
    connection: Connection,
    tokens: Collection[str],
    call_token: str,
    parameters: dict[str, Any],
    now: datetime,
) -> LaunchCall:
    """Commit attempts that were not called yet to one call.

    Raises:
        Stale: one of them was called, joined or dropped meanwhile.
    """
    columns = launch_attempts.c
    joined = connection.execute(
        update(launch_attempts)
        .where(
            columns.client_token.in_(sorted(tokens)),
            columns.status == "open",
            columns.calls == 0,
            columns.call_token.is_(None),
        )
        .values(calls=1, call_token=call_token)
    )
    if joined.rowcount != len(tokens):
        raise VersionConflict
    call = LaunchCall(call_token, parameters, len(tokens), 1, now)
    connection.execute(
        insert(launch_calls).values(
            client_token=call_token,
            parameters=parameters,
            size=call.size,
            calls=call.calls,
            made_at=now,
            created_at=now,
        )
    )
    return call


def attempts_of_call(connection: Connection, call: LaunchCall) -> Sequence[Attempt]:
    """The attempts that a call makes, closest deadline first, those not wanted any more last."""
    columns = launch_attempts.c
    token = columns.call_token if call.size > 1 else columns.client_token
    return _attempts(
        connection, _by_deadline(select(launch_attempts)).where(token == call.client_token)
    )


def cancel_unsent(connection: Connection, token: str, code: str, now: datetime) -> bool:
    """Close an attempt whose call was never made, and so launched nothing; False if it was made."""
    return _cancel(connection, launch_attempts.c.client_token == token, code, now) == 1


def cancel_unsent_in_pool(
    connection: Connection, pool_id: str, market: Market, code: str, now: datetime
) -> int:
    """Close all attempts in a pool that wait to be called, and would be refused like the last."""
    columns = launch_attempts.c
    return _cancel(
        connection, and_(columns.pool_id == pool_id, columns.market == market), code, now
    )


def _cancel(connection: Connection, which: ColumnElement[bool], code: str, now: datetime) -> int:
    columns = launch_attempts.c
    return connection.execute(
        update(launch_attempts)
        .where(which, columns.status == "open", columns.calls == 0)
        .values(status="refused", error_code=code, answered_at=now)
    ).rowcount


def emergencies_waiting(
    connection: Connection, deadline: datetime | None, *, other_than: str
) -> int:
    """How many calls emergencies wait for whose deadline is closer; of None, all of them.

    Those of one shape are launched together; of the shape `other_than`, with whoever asks.
    """
    attempt = launch_attempts.c
    waiting = (
        select(func.count(distinct(attempt.launch_fingerprint)))
        .select_from(launch_attempts)
        .join(replica_instances, replica_instances.c.id == attempt.replica_id)
        .join(incidents, incidents.c.open_agent_id == replica_instances.c.live_agent_id)
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
    """How many launches on spot were decided since then and not refused, by pool."""
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
    """The tokens of launches whose effect is not known yet: those of the calls they are made by."""
    columns = launch_attempts.c
    is_open = columns.status == "open"
    return set(
        connection.scalars(
            select(func.coalesce(columns.call_token, columns.client_token)).where(is_open)
        )
    )


def call_sizes(connection: Connection, tokens: Collection[str]) -> Mapping[str, int]:
    """For how many attempts the calls are, by token; the others are of no call for several."""
    columns = launch_calls.c
    rows = connection.execute(
        select(columns.client_token, columns.size).where(columns.client_token.in_(sorted(tokens)))
    )
    return {row.client_token: row.size for row in rows}


IS_EMERGENCY = and_(incidents.c.goal == Goal.SWITCH, incidents.c.kind.in_(LOSING))


def _by_deadline(statement: Select[Any]) -> Select[Any]:
    """Attempts in the order in which they are to be served."""
    replica, incident = replica_instances.c, incidents.c
    deadline = case((IS_EMERGENCY, incident.deadline))
    return (
        statement.select_from(launch_attempts)
        .join(replica_instances, replica.id == launch_attempts.c.replica_id)
        .outerjoin(incidents, incident.open_agent_id == replica.live_agent_id)
        .order_by(
            replica.live_agent_id.is_(None),
            case((IS_EMERGENCY, 0), else_=1),
            deadline.is_(None),
            deadline,
            replica.id,
        )
    )


def _attempts(connection: Connection, statement: Select[Any]) -> Sequence[Attempt]:
    rows = connection.execute(statement)
    return [Attempt(**{**row._mapping, "market": Market(row.market)}) for row in rows]
