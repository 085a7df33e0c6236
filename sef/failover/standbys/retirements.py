"""Store retirements: instances that an agent no longer needs, until they have ended.

A former primary gets a row when it stops being the primary, and loses the row when it becomes the
primary of an agent again. A surplus instance of a batched launch gets a row too.
`sef.failover.retention` decides if the instance of a row may be terminated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, delete, or_, select

from sef.db.statements import rows_where, swap, upsert
from sef.db.tables import agents, ordered_ends, retirements
from sef.terms import Market

LONGEST_POSTPONEMENT = timedelta(minutes=10)
"""Longest delay of an attempt that SEF accepts. A wrong clock may have written a longer one."""

_row = retirements.c

_RUNNING = select(retirements).where(
    _row.agent_id == bindparam("agent"), _row.terminated_at.is_(None)
)

_DUE = _RUNNING.where(
    _row.terminate_after <= bindparam("now"),
    or_(
        _row.not_before.is_(None),
        _row.not_before <= bindparam("now"),
        _row.not_before > bindparam("latest"),
    ),
)


@dataclass(frozen=True, slots=True)
class Retirement:
    """A row of `retirements`.

    Attributes:
        was_primary: False for a surplus instance of a batched launch.
        since: time from which the agent did not need the instance.
        terminate_after: the end of its drain. None: AWS or the operator terminates it.
        kept_because: reason why it still runs, as of the last pass.
        not_before: earliest next attempt to terminate it.
        missed_checks: number of consecutive checks in which EC2 did not show the instance.
        call_at: time at which SEF committed to terminate it; None: it did not.
        terminated_at: time at which the instance was known to have ended.
    """

    instance_id: str
    agent_id: str
    pool_id: str | None
    market: Market | None
    was_primary: bool
    reason: str
    since: datetime
    terminate_after: datetime | None
    kept_because: str | None
    not_before: datetime | None
    checked_at: datetime | None
    missed_checks: int
    call_at: datetime | None
    terminated_at: datetime | None
    incident_id: str | None
    stopped_at: datetime | None
    """Time at which AWS was first seen to have stopped it; None: it did not."""
    spot_request_id: str | None
    version: int


def plan_retirement(
    connection: Connection,
    agent_id: str,
    instance_id: str,
    reason: str,
    now: datetime,
    *,
    terminate_after: datetime | None,
    was_primary: bool = True,
    pool_id: str | None = None,
    market: Market | None = None,
    incident_id: str | None = None,
    kept_because: str | None = None,
) -> None:
    """Record that an agent no longer needs an instance; replace an older record of the instance.

    Args:
        terminate_after: the end of its drain. None: AWS or the operator terminates it.
        kept_because: the reason to keep it that was found; None: nothing was looked for yet.
    """
    row = {
        "instance_id": instance_id,
        "agent_id": agent_id,
        "pool_id": pool_id,
        "market": market,
        "was_primary": was_primary,
        "reason": reason,
        "since": now,
        "terminate_after": terminate_after,
        "kept_because": kept_because,
        "not_before": None,
        "checked_at": None,
        "missed_checks": 0,
        "call_at": None,
        "terminated_at": None,
        "incident_id": incident_id,
        "stopped_at": None,
        "spot_request_id": None,
    }
    upsert(connection, retirements, [row])


def read_retirement(
    connection: Connection, instance_id: str, *, lock: bool = False
) -> Retirement | None:
    """Return the retirement of an instance, if there is one."""
    rows = rows_where(connection, retirements, {"instance_id": instance_id}, lock=lock)
    return next((_retirement(row) for row in rows), None)


def delete_retirement(connection: Connection, instance_id: str) -> None:
    """Delete the retirement of an instance, if there is one: an agent needs the instance again.

    An order to terminate it goes too: it was given for an instance that nobody needed.
    """
    connection.execute(delete(retirements).where(_row.instance_id == instance_id))
    connection.execute(delete(ordered_ends).where(ordered_ends.c.instance_id == instance_id))


def order_end(connection: Connection, agent_id: str, instance_id: str, now: datetime) -> None:
    """Record that an operator has named an instance to be terminated, whatever it holds."""
    row = {"instance_id": instance_id, "agent_id": agent_id, "ordered_at": now}
    upsert(connection, ordered_ends, [row])


def is_end_ordered(connection: Connection, instance_id: str) -> bool:
    """Return True if an operator has named the instance to be terminated."""
    ordered = ordered_ends.c.instance_id
    return connection.scalar(select(ordered).where(ordered == instance_id)) is not None


def change_retirement(connection: Connection, retirement: Retirement, **values: Any) -> None:
    """Change columns of a retirement that was read.

    Raises:
        VersionConflict: the row has changed since it was read.
    """
    key = {"instance_id": retirement.instance_id}
    swap(connection, retirements, key, version=retirement.version, **values)


def running_retirements(connection: Connection, agent_id: str) -> Sequence[Retirement]:
    """Return the retirements of an agent whose instances are not known to have ended."""
    rows = connection.execute(_RUNNING, {"agent": agent_id})
    return [_retirement(row) for row in rows]


def due_retirements(connection: Connection, agent_id: str, now: datetime) -> Sequence[Retirement]:
    """Return the retirements of an agent that SEF may try to terminate now."""
    rows = connection.execute(
        _DUE, {"agent": agent_id, "now": now, "latest": now + LONGEST_POSTPONEMENT}
    )
    return [_retirement(row) for row in rows]


def planned_retirements(connection: Connection, agent_id: str) -> dict[str, datetime]:
    """Return the end of the drain of each instance that SEF is to terminate, by instance id."""
    return {
        retirement.instance_id: retirement.terminate_after
        for retirement in running_retirements(connection, agent_id)
        if retirement.terminate_after is not None
    }


def agent_with_primary(
    connection: Connection, instance_id: str, *, other_than: str = ""
) -> str | None:
    """Return the id of an agent whose primary is this instance, if there is one."""
    columns = agents.c
    found = select(columns.id).where(columns.instance_id == instance_id, columns.id != other_than)
    return connection.scalar(found.limit(1))


def _retirement(row: Any) -> Retirement:
    return Retirement(**{**row._mapping, "market": row.market and Market(row.market)})
