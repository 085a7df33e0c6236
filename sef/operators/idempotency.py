"""Calls that a client may repeat under one Idempotency-Key, and that have their effect once."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from sef.clock import Clock
from sef.db.database import Database
from sef.db.statements import swap
from sef.db.tables import idempotency_keys
from sef.errors import KeyInUse, KeyReused, SefError

Answer = dict[str, Any]
Keep = Callable[[Connection, Answer], None]
"""Called in the transaction of the effect, with the answer as it is known then."""


@dataclass(frozen=True, slots=True)
class IdempotentCalls:
    database: Database
    clock: Clock

    def once(
        self, key: str | None, agent_id: str, call: str, work: Callable[[Keep], Answer]
    ) -> Answer:
        """Carry a call out and return its answer, or return the answer that it had before.

        `work` calls what it is given in the transaction of its effect, so that a crash between
        COMMIT and answer leaves an answer to repeat. Refusals have no effect and are not stored.

        Raises:
            KeyReused: the key belongs to another call.
            KeyInUse: the call is being carried out.
            SefError: what `work` raises.
        """
        if key is None:
            return work(lambda connection, answer: None)
        now = self.clock()
        stored = self.database.write(claim, key, agent_id, call, now)
        if stored is not None:
            return stored
        try:
            answer = work(lambda c, known: store(c, key, known))
        except (SefError, AlreadyAnswered):
            stored = self.database.write(release, key)
            if stored is None:
                raise
            return stored
        self.database.write(complete, key, answer)
        return answer


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


def delete_expired(connection: Connection, before: datetime) -> int:
    """Delete the keys of calls from before then; returns how many."""
    done = connection.execute(delete(idempotency_keys).where(_columns.created_at < before))
    return done.rowcount


def _row(connection: Connection, key: str) -> Row[Any] | None:
    statement = select(idempotency_keys).where(_columns.idempotency_key == key)
    return connection.execute(statement).one_or_none()


def _change(connection: Connection, row: Row[Any], **values: Any) -> None:
    key = {"idempotency_key": row.idempotency_key}
    swap(connection, idempotency_keys, key, version=row.version, **values)
