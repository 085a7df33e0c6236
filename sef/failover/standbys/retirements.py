"""Store retirements: former primaries and surplus instances that SEF is to terminate."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, exists, select, update

from sef.db.statements import insert_missing
from sef.db.tables import cutovers, retirements

_DUE = select(retirements).where(
    retirements.c.agent_id == bindparam("agent"),
    retirements.c.terminated_at.is_(None),
    retirements.c.obstacle.is_(None),
    retirements.c.not_before <= bindparam("now"),
    ~exists().where(
        cutovers.c.open_agent_id == retirements.c.agent_id, cutovers.c.traffic_moved_at.is_(None)
    ),
)


@dataclass(frozen=True, slots=True)
class Retirement:
    """A row of `retirements`.

    Attributes:
        not_before: earliest time of the termination, or of its next attempt.
        missed_checks: number of attempts in which EC2 did not know the instance.
        obstacle: the reason why SEF leaves the instance running; None if it does not.
    """

    instance_id: str
    agent_id: str
    reason: str
    not_before: datetime
    missed_checks: int
    terminated_at: datetime | None
    obstacle: str | None
    incident_id: str | None


def plan_retirement(
    connection: Connection,
    agent_id: str,
    instance_id: str,
    reason: str,
    not_before: datetime,
    incident_id: str | None,
) -> None:
    """Record that an instance is to be terminated. A second record for it changes nothing."""
    insert_missing(
        connection,
        retirements,
        [
            {
                "instance_id": instance_id,
                "agent_id": agent_id,
                "reason": reason,
                "not_before": not_before,
                "incident_id": incident_id,
            }
        ],
    )


def due_retirements(connection: Connection, agent_id: str, now: datetime) -> Sequence[Retirement]:
    """Return the retirements of an agent that are due.

    No retirement is due before the open cutover has moved the traffic to the new primary.
    """
    rows = connection.execute(_DUE, {"agent": agent_id, "now": now})
    return [Retirement(**row._mapping) for row in rows]


def planned_retirements(connection: Connection, agent_id: str) -> dict[str, datetime]:
    """Return the earliest termination time of each retirement that is not done, by instance id."""
    columns = retirements.c
    rows = connection.execute(
        select(columns.instance_id, columns.not_before).where(
            columns.agent_id == agent_id,
            columns.terminated_at.is_(None),
            columns.obstacle.is_(None),
        )
    )
    return {row.instance_id: row.not_before for row in rows}


def postpone_retirement(connection: Connection, retirement: Retirement, until: datetime) -> None:
    """Retry a termination later, because EC2 did not know the instance."""
    columns = retirements.c
    connection.execute(
        update(retirements)
        .where(
            columns.instance_id == retirement.instance_id,
            columns.missed_checks == retirement.missed_checks,
        )
        .values(not_before=until, missed_checks=retirement.missed_checks + 1)
    )


def finish_retirement(
    connection: Connection, instance_id: str, now: datetime, *, obstacle: str | None = None
) -> bool:
    """Record that an instance is terminated or, with an obstacle, that it is left running.

    Return False if another worker has recorded one of the two.
    """
    columns = retirements.c
    finished = connection.execute(
        update(retirements)
        .where(
            columns.instance_id == instance_id,
            columns.terminated_at.is_(None),
            columns.obstacle.is_(None),
        )
        .values(terminated_at=None if obstacle else now, obstacle=obstacle)
    )
    return finished.rowcount == 1
