"""Read which instances have reported for an agent, or were signalled.

SEF does not terminate an instance that has just reported as an agent's. `sef.prices.heard` stores
the reports.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, select, tuple_

from sef.db.tables import agent_instances, spot_interruption_events
from sef.terms import UNNAMED

_columns = agent_instances.c


class Reporting(NamedTuple):
    """An instance that reports, and the agent that it reports for."""

    agent_id: str
    instance_id: str


def heard_at(connection: Connection, keys: Iterable[Reporting]) -> dict[Reporting, datetime]:
    """Return the time at which each instance was last heard, by a report or by a signal."""
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    signal = spot_interruption_events.c
    latest = _stored(connection, wanted)
    signals = connection.execute(
        select(signal.agent_id, signal.instance_id, signal.last_received_at).where(
            tuple_(signal.agent_id, signal.instance_id).in_(wanted)
        )
    )
    for row in signals:
        key = Reporting(row.agent_id, row.instance_id)
        latest[key] = max(row.last_received_at, latest.get(key, row.last_received_at))
    return latest


def reporting_since(connection: Connection, agent_id: str, since: datetime) -> set[str]:
    """Return the instances that have reported for an agent since `since`."""
    return set(
        connection.scalars(
            select(_columns.instance_id).where(
                _columns.agent_id == agent_id,
                _columns.instance_id != UNNAMED,
                _columns.heard_at > since,
            )
        )
    )


def _stored(connection: Connection, keys: Iterable[Reporting]) -> dict[Reporting, datetime]:
    rows = connection.execute(
        select(_columns.agent_id, _columns.instance_id, _columns.heard_at).where(
            tuple_(_columns.agent_id, _columns.instance_id).in_(sorted(keys)),
            _columns.heard_at.is_not(None),
        )
    )
    return {Reporting(row.agent_id, row.instance_id): row.heard_at for row in rows}
