"""Answers of calls that carried an Idempotency-Key, each in the transaction of its effect."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from sef.errors import KeyInUse, KeyReused
from sef.store.statements import swap
from sef.store.tables import idempotency_keys

CLAIM = timedelta(seconds=20)
"""How long a repeat is told to wait for a first call that is not committed. One that takes longer
loses nothing but the right to be the only one: only one of the two can store an answer."""
KEPT = timedelta(days=7)

Answer = dict[str, Any]
_columns = idempotency_keys.c


class AnsweredMeanwhile(Exception):
    """Another call with this key has had its effect: this one must have none."""


def claim(
    connection: Connection, key: str, agent_id: str, call: str, now: datetime
) -> Answer | None:
    """Begin a call, or return the answer that it had before.

    Raises:
        KeyReused: the key belongs to another call.
        KeyInUse: somebody is carrying the call out.
    """
    row = _row(connection, key)
    if row is None:
        connection.execute(
            insert(idempotency_keys).values(
                idempotency_key=key,
                agent_id=agent_id,
                call=call,
                claimed_until=now + CLAIM,
                created_at=now,
            )
        )
        return None
    if (row.agent_id, row.call) != (agent_id, call):
        raise KeyReused
    if row.answer is not None:
        answer: Answer = row.answer
        return answer
    # A claim from far ahead is one of a wrong clock.
    if row.claimed_until is not None and now < row.claimed_until <= now + 2 * CLAIM:
        raise KeyInUse
    _change(connection, row, claimed_until=now + CLAIM)
    return None


def store(connection: Connection, key: str, answer: Answer) -> None:
    """Store the answer of an effect in its transaction.

    Raises:
        AnsweredMeanwhile: another one was first; the transaction must be given up.
    """
    row = _row(connection, key)
    if row is None or row.answer is not None:
        raise AnsweredMeanwhile
    _change(connection, row, answer=answer, claimed_until=None)


def complete(connection: Connection, key: str, answer: Answer) -> None:
    """Put what the caller is told in place of what was known when the effect was committed."""
    connection.execute(
        update(idempotency_keys)
        .where(_columns.idempotency_key == key)
        .values(answer=answer, version=_columns.version + 1)
    )


def give_back(connection: Connection, key: str) -> Answer | None:
    """End a call that had no effect; return the answer if another had one meanwhile."""
    row = _row(connection, key)
    if row is None:
        return None
    if row.answer is not None:
        answer: Answer = row.answer
        return answer
    _change(connection, row, claimed_until=None)
    return None


def forget(connection: Connection, before: datetime) -> int:
    """Delete the keys of calls from before then; returns how many."""
    done = connection.execute(delete(idempotency_keys).where(_columns.created_at < before))
    return done.rowcount


def _row(connection: Connection, key: str) -> Row[Any] | None:
    statement = select(idempotency_keys).where(_columns.idempotency_key == key)
    return connection.execute(statement).one_or_none()


def _change(connection: Connection, row: Row[Any], **values: Any) -> None:
    key = {"idempotency_key": row.idempotency_key}
    swap(connection, idempotency_keys, key, version=row.version, **values)
