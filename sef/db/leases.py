"""Take the leases of periodic jobs, read the name of the deployment, and ping the database."""

from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import Connection, or_, select, update

from sef.db.statements import insert_missing
from sef.db.tables import agents, deployment, leases

MAX_DURATION = timedelta(days=366)
"""Maximum duration of a lease: the longest interval of a job, and time to spare."""

MAX_CLOCK_SKEW = timedelta(seconds=30)
"""Maximum difference between the clocks of two hosts that SEF accepts."""


def ping(connection: Connection) -> None:
    """Read a real table: a node that has lost its cluster still answers SELECT 1."""
    connection.execute(select(agents.c.id).limit(1))


def deployment_name(connection: Connection) -> str:
    """Return the name of this deployment of SEF; the first call on a new database creates it."""
    statement = select(deployment.c.name)
    name = connection.scalar(statement)
    if name is None:
        insert_missing(connection, deployment, [{"one": 1, "name": f"sef-{uuid4().hex[:12]}"}])
        name = connection.scalar(statement)
    return str(name)


def take_lease(
    connection: Connection, name: str, holder: str, now: datetime, duration: timedelta
) -> bool:
    """Take or extend a lease; return False while another process holds it.

    A lease that expires more than `duration` and the maximum clock skew from now was written by a
    host with a fast clock. It counts as expired, because its holder may be dead.
    """
    insert_missing(
        connection, leases, [{"name": name, "holder": holder, "expires_at": now, "version": 1}]
    )
    columns = leases.c
    duration = min(duration, MAX_DURATION)
    latest = now + duration + MAX_CLOCK_SKEW
    is_expired = or_(columns.expires_at <= now, columns.expires_at > latest)
    taken = connection.execute(
        update(leases)
        .where(columns.name == name, or_(columns.holder == holder, is_expired))
        .values(holder=holder, expires_at=now + duration, version=columns.version + 1)
    )
    return taken.rowcount == 1
