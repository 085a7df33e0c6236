"""Store the RunInstances calls of launch attempts, each before it is made.

An attempt has a call of its own until it joins a batched call. Recording a call before making it
lets a second worker repeat it with the same client token after a crash or a lost answer.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from sef.db.database import VersionConflict
from sef.db.tables import launch_attempts, launch_calls, replica_instances
from sef.failover.instances.attempts import Attempt, by_deadline, read_attempts
from sef.terms import ReplicaStatus

MAX_PER_CALL = 50
"""Maximum number of instances that one RunInstances call launches."""


@dataclass(frozen=True, slots=True)
class LaunchCall:
    """A RunInstances call for one attempt, or a batched call for several.

    Attributes:
        size: number of attempts that the call launches.
        calls: number of times the call was made, including one about to be made.
        made_at: time of the latest call; None if none was made, or if an attempt's own call was
            made more than once.
    """

    client_token: str
    parameters: Mapping[str, Any]
    size: int
    calls: int
    made_at: datetime | None


def call_of(connection: Connection, attempt: Attempt) -> LaunchCall:
    """Return the call of an attempt: the batched call that it joined, or else its own."""
    if attempt.call_token is None:
        made_at = attempt.called_at if attempt.calls == 1 else None
        return LaunchCall(attempt.client_token, attempt.parameters, 1, attempt.calls, made_at)
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
    """Record that a call is about to be made.

    Return False if another worker has recorded the call since it was read.
    """
    if call.size == 1:
        columns = launch_attempts.c
        recorded = connection.execute(
            update(launch_attempts)
            .where(
                columns.client_token == call.client_token,
                columns.status == "open",
                columns.calls == call.calls,
                columns.call_token.is_(None),
            )
            .values(calls=call.calls + 1, called_at=func.coalesce(columns.called_at, now))
        )
    else:
        recorded = connection.execute(
            update(launch_calls)
            .where(
                launch_calls.c.client_token == call.client_token,
                launch_calls.c.calls == call.calls,
            )
            .values(calls=call.calls + 1, made_at=now)
        )
    return recorded.rowcount == 1


def joinable_attempts(connection: Connection, attempt: Attempt) -> Sequence[str]:
    """Return the tokens of other attempts that this attempt's call can launch too.

    They are open, wait for their first call and have the same fingerprint. The attempt with the
    closest deadline comes first.
    """
    columns = launch_attempts.c
    return connection.scalars(
        by_deadline(select(columns.client_token))
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
    """Commit attempts to one batched call that is about to be made.

    Raises:
        VersionConflict: one of the attempts has been called, joined or closed since it was read.
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
        .values(calls=1, call_token=call_token, called_at=now)
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
    """Return the attempts of a call, closest deadline first.

    Attempts of replicas that are no longer needed come last.
    """
    columns = launch_attempts.c
    token = columns.call_token if call.size > 1 else columns.client_token
    return read_attempts(
        connection, by_deadline(select(launch_attempts)).where(token == call.client_token)
    )
