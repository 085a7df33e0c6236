from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, exists, select, update

from sef.db.statements import insert_missing
from sef.db.tables import cutovers, retirements


@dataclass(frozen=True, slots=True)
class Retirement:
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
    """Write down that a former primary shall be terminated, once."""
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


_DUE = select(retirements).where(
    retirements.c.agent_id == bindparam("agent"),
    retirements.c.terminated_at.is_(None),
    retirements.c.obstacle.is_(None),
    retirements.c.not_before <= bindparam("now"),
    ~exists().where(
        cutovers.c.open_agent_id == retirements.c.agent_id, cutovers.c.traffic_moved_at.is_(None)
    ),
)


def due_retirements(connection: Connection, agent_id: str, now: datetime) -> Sequence[Retirement]:
    """Former primaries to be terminated now: none until the new one has all that it is to have."""
    rows = connection.execute(_DUE, {"agent": agent_id, "now": now})
    return [Retirement(**row._mapping) for row in rows]


def planned_retirements(connection: Connection, agent_id: str) -> dict[str, datetime]:
    """The former primaries to be terminated, now or later, each with the earliest time for it."""
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
    """Try again later: EC2 does not know the instance, not yet or not any more."""
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
    """Write down that the instance is terminated, or why it is not; False when that was done."""
    columns = retirements.c
    answer = connection.execute(
        update(retirements)
        .where(
            columns.instance_id == instance_id,
            columns.terminated_at.is_(None),
            columns.obstacle.is_(None),
        )
        .values(terminated_at=None if obstacle else now, obstacle=obstacle)
    )
    return answer.rowcount == 1
