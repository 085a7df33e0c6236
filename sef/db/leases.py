"""Who this SEF is, and which of its processes does a periodic job."""

from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import Connection, or_, select, update

from sef.db.statements import insert_missing
from sef.db.tables import agents, deployment, leases


def ping(connection: Connection) -> None:
    """Read a real table: a node that has lost its cluster still answers SELECT 1."""
    connection.execute(select(agents.c.id).limit(1))


MAX_CLOCK_SKEW = timedelta(seconds=30)
"""What the clocks of two hosts may differ by and still be believed."""


def deployment_name(connection: Connection) -> str:
    """The name of this SEF, made up when its database is used for the first time."""
    statement = select(deployment.c.name)
    name = connection.scalar(statement)
    if name is None:
        insert_missing(connection, deployment, [{"one": 1, "name": f"sef-{uuid4().hex[:12]}"}])
        name = connection.scalar(statement)
    return str(name)


def take_lease(
    connection: Connection, name: str, holder: str, now: datetime, duration: timedelta
) -> bool:
    """Take or keep a lease; False while somebody else holds it.

    Nobody holds one for longer than it lasts: what expires later than that was written by a
    process whose clock is ahead, and who may be dead by now.
    """
    insert_missing(
        connection, leases, [{"name": name, "holder": holder, "expires_at": now, "version": 1}]
    )
    columns = leases.c
    is_over = or_(columns.expires_at <= now, columns.expires_at > now + duration + MAX_CLOCK_SKEW)
    taken = connection.execute(
        update(leases)
        .where(columns.name == name, or_(columns.holder == holder, is_over))
        .values(holder=holder, expires_at=now + duration, version=columns.version + 1)
    )
    return taken.rowcount == 1
