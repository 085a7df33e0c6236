"""Terminations of orphans: decided on, then made, then told, each committed before the next."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, update

from sef.store.events import Event, write_events
from sef.store.statements import insert_missing
from sef.store.tables import orphan_terminations

KEPT = timedelta(days=1)
"""How long a termination is remembered that was told: longer than EC2 shows what has ended, and
an answer that lags may still show it running."""


@dataclass(frozen=True, slots=True)
class OrphanTermination:
    instance_id: str
    agent_id: str | None
    pool_id: str | None
    decided_at: datetime


def decide(connection: Connection, termination: OrphanTermination) -> None:
    """Write down that an orphan is about to be terminated."""
    insert_missing(connection, orphan_terminations, [asdict(termination)])


def untold(connection: Connection) -> Sequence[OrphanTermination]:
    """Those decided on of which nobody has said yet that they were made."""
    columns = orphan_terminations.c
    rows = connection.execute(
        select(columns.instance_id, columns.agent_id, columns.pool_id, columns.decided_at).where(
            columns.told_at.is_(None)
        )
    )
    return [OrphanTermination(**row._mapping) for row in rows]


def withdraw(connection: Connection, instance_id: str) -> None:
    """Forget a decision: the instance runs, and there is a use for it by now."""
    columns = orphan_terminations.c
    connection.execute(
        delete(orphan_terminations).where(
            columns.instance_id == instance_id, columns.told_at.is_(None)
        )
    )


def tell(connection: Connection, termination: OrphanTermination, now: datetime) -> bool:
    """Write the event of a termination that was made; False if it was written before."""
    decide(connection, termination)  # unless another worker has withdrawn it meanwhile
    columns = orphan_terminations.c
    instance_id = termination.instance_id
    is_news = connection.execute(
        update(orphan_terminations)
        .where(columns.instance_id == instance_id, columns.told_at.is_(None))
        .values(told_at=now)
    ).rowcount
    if not is_news:
        return False
    event = Event(
        "orphan_terminated",
        f"{instance_id} was launched by SEF and no row has a use for it: terminated",
        termination.agent_id,
        "warning",
        {"instance_id": instance_id, "pool_id": termination.pool_id},
    )
    write_events(connection, [event], now)
    connection.execute(delete(orphan_terminations).where(columns.told_at < now - KEPT))
    return True
