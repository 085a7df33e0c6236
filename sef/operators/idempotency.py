"""Calls that a client may repeat under one Idempotency-Key, and that have their effect once.

A call claims its key, stores its answer in the transaction of its effect, and replaces that answer
by the final one at its end. A crash between COMMIT and answer so leaves an answer to repeat. A call
that is refused has no effect, and its answer is not stored.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from sef.context import Context
from sef.db.statements import swap
from sef.db.tables import idempotency_keys
from sef.errors import KeyInUse, KeyReused, SefError
from sef.parsing import parse_idempotency_key

Answer = dict[str, Any]


@dataclass(slots=True)
class IdempotentCall:
    """A call under way.

    Attributes:
        key: the Idempotency-Key, or None without one: then nothing is stored.
        answer: the answer, empty until it is known.
    """

    key: str | None
    answer: Answer

    @property
    def is_new(self) -> bool:
        """True while the effect of the call is still to be had."""
        return not self.answer

    def store(self, connection: Connection, answer: Answer) -> None:
        """Store the answer as it is known in the transaction of the effect.

        Raises:
            AlreadyAnswered: another call with this key had its effect first; the transaction must
                roll back.
        """
        if self.key is not None:
            store(connection, self.key, answer)


@contextmanager
def idempotent_call(
    ctx: Context, key: str | None, agent_id: str, call: str
) -> Iterator[IdempotentCall]:
    """Begin a call; at the end of the block its answer is complete.

        with idempotent_call(ctx, key, agent_id, "manual-switch") as under_way:
            if under_way.is_new:
                ...  # the effect, in a transaction that ends with under_way.store
                under_way.answer = {...}
        return under_way.answer

    Raises:
        Refused: the key cannot be used.
        KeyReused: the key belongs to another call.
        KeyInUse: the call is being carried out by another request.
        SefError: raised by the block, and no other call with this key had an effect.
    """
    key = parse_idempotency_key(key)
    earlier = ctx.database.write(claim, key, agent_id, call, ctx.clock()) if key else None
    under_way = IdempotentCall(key, earlier or {})
    try:
        yield under_way
    except (SefError, AlreadyAnswered):
        earlier = ctx.database.write(release, key) if key else None
        if earlier is None:
            raise
        under_way.answer = earlier
        return
    if key and earlier is None:
        ctx.database.write(complete, key, under_way.answer)


CLAIM_DURATION = timedelta(seconds=20)
"""How long a repeat is told to wait for a first call that is not committed. One that takes longer
loses nothing but the right to be the only one: only one of the two can store an answer."""
RETENTION = timedelta(days=7)

_columns = idempotency_keys.c


class AlreadyAnswered(Exception):
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
                claimed_until=now + CLAIM_DURATION,
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
    if row.claimed_until is not None and now < row.claimed_until <= now + 2 * CLAIM_DURATION:
        raise KeyInUse
    _change(connection, row, claimed_until=now + CLAIM_DURATION)
    return None


def store(connection: Connection, key: str, answer: Answer) -> None:
    """Store the answer of an effect in its transaction.

    Raises:
        AnsweredMeanwhile: another one was first; the transaction must be given up.
    """
    row = _row(connection, key)
    if row is None or row.answer is not None:
        raise AlreadyAnswered
    _change(connection, row, answer=answer, claimed_until=None)


def complete(connection: Connection, key: str, answer: Answer) -> None:
    """Put what the caller is told in place of what was known when the effect was committed."""
    connection.execute(
        update(idempotency_keys)
        .where(_columns.idempotency_key == key)
        .values(answer=answer, version=_columns.version + 1)
    )


def release(connection: Connection, key: str) -> Answer | None:
    """End a call that had no effect; return the answer if another had one meanwhile."""
    row = _row(connection, key)
    if row is None:
        return None
    if row.answer is not None:
        answer: Answer = row.answer
        return answer
    _change(connection, row, claimed_until=None)
    return None


def delete_expired_keys(connection: Connection, now: datetime) -> int:
    """Delete the keys that are older than RETENTION, with their answers; return how many."""
    before = now - RETENTION
    return connection.execute(delete(idempotency_keys).where(_columns.created_at < before)).rowcount


def _row(connection: Connection, key: str) -> Row[Any] | None:
    statement = select(idempotency_keys).where(_columns.idempotency_key == key)
    return connection.execute(statement).one_or_none()


def _change(connection: Connection, row: Row[Any], **values: Any) -> None:
    key = {"idempotency_key": row.idempotency_key}
    swap(connection, idempotency_keys, key, version=row.version, **values)
