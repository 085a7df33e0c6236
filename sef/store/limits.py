"""What the limits against damage count, and whether it was said already that one is hit."""

from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, func, select, update

from sef.core.replica import Status
from sef.store.deployment import CLOCKS_DIFFER
from sef.store.statements import insert_missing, swap
from sef.store.tables import launch_attempts, limit_episodes, replica_instances

QUIET = timedelta(minutes=15)
"""An episode is over when its limit was not hit for so long: longer than any back-off."""

NOTED_EVERY = timedelta(minutes=1)
MAY_RUN = (Status.LAUNCHING, Status.READY, Status.RELEASING, Status.PROMOTED)


def launches_between(
    connection: Connection, agent_id: str, since: datetime, until: datetime
) -> int:
    """How many instances were launched for an agent, counting calls whose effect is not known.

    Refused calls launched nothing. No other transaction can be adding one for the agent when the
    caller has its replica: attempts change the replica, and an agent has one live replica.
    """
    attempt, replica = launch_attempts.c, replica_instances.c
    return (
        connection.scalar(
            select(func.count())
            .select_from(launch_attempts)
            .join(replica_instances, replica.id == attempt.replica_id)
            .where(
                replica.agent_id == agent_id,
                attempt.created_at > since,
                attempt.created_at <= until,
                attempt.status != "refused",
            )
        )
        or 0
    )


def live_instances(connection: Connection) -> int:
    """How many instances of all that SEF launched may run, as far as the rows know."""
    attempt, replica = launch_attempts.c, replica_instances.c
    known = (
        select(func.count())
        .select_from(replica_instances)
        .where(replica.status.in_(MAY_RUN), replica.instance_id.is_not(None))
    )
    unknown = select(func.count()).select_from(launch_attempts).where(attempt.status == "open")
    return (connection.scalar(known) or 0) + (connection.scalar(unknown) or 0)


def take_turns(connection: Connection, name: str) -> None:
    """Wait for all others who decide under a limit of the whole fleet, and let them wait.

    It is an update, so that on a cluster the later one of two is repeated.
    """
    insert_missing(connection, limit_episodes, [{"name": name, "agent_id": ""}])
    columns = limit_episodes.c
    connection.execute(
        update(limit_episodes)
        .where(columns.name == name, columns.agent_id == "")
        .values(version=columns.version + 1)
    )


def begins_episode(connection: Connection, name: str, agent_id: str, now: datetime) -> bool:
    """Note that a limit is hit; True if that is news, and to be said, and not a repeat.

    Args:
        agent_id: empty for a limit of the whole fleet.
    """
    insert_missing(connection, limit_episodes, [{"name": name, "agent_id": agent_id}])
    columns = limit_episodes.c
    of_it = and_(columns.name == name, columns.agent_id == agent_id)
    row = connection.execute(select(columns.hit_at, columns.version).where(of_it)).one()
    # What lies in the future was written by a clock that is ahead.
    goes_on = row.hit_at is not None and now - QUIET < row.hit_at <= now + CLOCKS_DIFFER
    if goes_on and now - row.hit_at < NOTED_EVERY:
        return False
    key = {"name": name, "agent_id": agent_id}
    swap(connection, limit_episodes, key, version=row.version, hit_at=now)
    return not goes_on
