"""Give calls that are repeated under one Idempotency-Key a single effect and a single answer.

1. A call claims its key.
2. It stores a first answer in the transaction of its effect. If the process crashes between COMMIT
   and the answer, a repeat gets this stored answer.
3. At its end the call replaces the stored answer by the final one.

A rejected call has no effect, and its answer is not stored.
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

CLAIM_DURATION = timedelta(seconds=20)
"""Time for which a repeated call is rejected while the first call has not committed. If the first
call takes longer, a repeated call may run beside it; only one of the two can store an answer and
commit."""
RETENTION = timedelta(days=7)
"""Age at which a key and its answer are deleted."""

_columns = idempotency_keys.c


class AlreadyAnswered(Exception):
    """Another call with this key committed its effect; this call must roll back."""


@dataclass(slots=True)
class IdempotentCall:
    """A call in progress.

    Attributes:
        key: the Idempotency-Key; None if the request has none, then nothing is stored.
        answer: the answer, empty until it is known.
    """

    key: str | None
    answer: Answer

    @property
    def is_new(self) -> bool:
        """True if the effect of the call has not happened yet."""
        return not self.answer

    def store(self, connection: Connection, answer: Answer) -> None:
        """Store the first answer, in the transaction of the effect.

        Raises:
            AlreadyAnswered: another call with this key committed its effect first; this
                transaction must roll back.
        """
        if self.key is not None:
            store(connection, self.key, answer)


@contextmanager
def idempotent_call(
    ctx: Context, key: str | None, agent_id: str, call: str
) -> Iterator[IdempotentCall]:
    """Run a call under its key; after the block, `answer` is complete.

        with idempotent_call(ctx, key, agent_id, "manual-switch") as call:
            if call.is_new:
                ...  # the effect, in a transaction that ends with call.store
                call.answer = {...}
        return call.answer

    Args:
        call: the name of the call. A key may not be reused for another call or another agent.

    Raises:
        Refused: the key is malformed.
        KeyReused: the key belongs to another call.
        KeyInUse: another request is running the call.
        SefError: the block raised it, and no other call with this key had an effect.
    """
    key = parse_idempotency_key(key)
    earlier = ctx.database.write(claim, key, agent_id, call, ctx.clock()) if key else None
    running = IdempotentCall(key, earlier or {})
    try:
        yield running
    except (SefError, AlreadyAnswered):
        earlier = ctx.database.write(release, key) if key else None
        if earlier is None:
            raise
        running.answer = earlier
        return
    if key and earlier is None:
        ctx.database.write(complete, key, running.answer)


def claim(
    connection: Connection, key: str, agent_id: str, call: str, now: datetime
) -> Answer | None:
    """Claim the key for a call, or return the answer of an earlier call with this key.

    Raises:
        KeyReused: the key belongs to another call.
        KeyInUse: another request is running the call.
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
    # A claim that ends later than a claim can was written by a host with a fast clock: it is void.
    if row.claimed_until is not None and now < row.claimed_until <= now + 2 * CLAIM_DURATION:
        raise KeyInUse
    _change(connection, row, claimed_until=now + CLAIM_DURATION)
    return None


def store(connection: Connection, key: str, answer: Answer) -> None:
    """Store the first answer, in the transaction of the effect.

    Raises:
        AlreadyAnswered: another call with this key committed first; roll back.
    """
    row = _row(connection, key)
    if row is None or row.answer is not None:
        raise AlreadyAnswered
    _change(connection, row, answer=answer, claimed_until=None)


def complete(connection: Connection, key: str, answer: Answer) -> None:
    """Replace the first answer by the final one."""
    connection.execute(
        update(idempotency_keys)
        .where(_columns.idempotency_key == key)
        .values(answer=answer, version=_columns.version + 1)
    )


def release(connection: Connection, key: str) -> Answer | None:
    """Release the claim of a call without effect; return the answer if another call stored one."""
    row = _row(connection, key)
    if row is None:
        return None
    if row.answer is not None:
        answer: Answer = row.answer
        return answer
    _change(connection, row, claimed_until=None)
    return None


def delete_expired_keys(connection: Connection, now: datetime) -> int:
    """Delete the keys older than RETENTION, with their answers; return their number."""
    before = now - RETENTION
    return connection.execute(delete(idempotency_keys).where(_columns.created_at < before)).rowcount


def _row(connection: Connection, key: str) -> Row[Any] | None:
    statement = select(idempotency_keys).where(_columns.idempotency_key == key)
    return connection.execute(statement).one_or_none()


def _change(connection: Connection, row: Row[Any], **values: Any) -> None:
    key = {"idempotency_key": row.idempotency_key}
    swap(connection, idempotency_keys, key, version=row.version, **values)
