"""Calls that a client may repeat under one Idempotency-Key, and that have their effect once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from sef.clock import Clock
from sef.errors import SefError
from sef.store import idempotency
from sef.store.database import Database
from sef.store.idempotency import AnsweredMeanwhile

Answer = dict[str, Any]
Keep = Callable[[Connection, Answer], None]
"""Called in the transaction of the effect, with the answer as it is known then."""


@dataclass(frozen=True, slots=True)
class Repeats:
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
        stored = self.database.write(lambda c: idempotency.claim(c, key, agent_id, call, now))
        if stored is not None:
            return stored
        try:
            answer = work(lambda c, known: idempotency.store(c, key, known))
        except (SefError, AnsweredMeanwhile):
            stored = self.database.write(lambda c: idempotency.give_back(c, key))
            if stored is None:
                raise
            return stored
        self.database.write(lambda c: idempotency.complete(c, key, answer))
        return answer
