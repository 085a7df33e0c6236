"""An agent's row: its primary, its modes, and the work that is postponed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert

from sef.db.statements import rows_where, swap
from sef.db.tables import agents
from sef.errors import AgentNotFound
from sef.terms import Mode

LONGEST_PAUSE = timedelta(minutes=10)
"""The longest pause of an agent's work that SEF accepts.

A worker with a fast clock may write a longer pause. Without this limit, the agent's work would stop
for all of it.
"""


@dataclass(frozen=True, slots=True)
class Agent:
    """A row of `agents`.

    Attributes:
        not_before: the time until which the agent's unfinished work is postponed.
        put_off_because: the reason for the postponement; without meaning after `not_before`.
        drill_interval: seconds between two drills; None: no drills.
        cutover: the cutover targets, as `sef.failover.cutover.targets` parses them.
        epoch: grows with every change of primary.
        version: grows with every change of the row.
    """

    id: str
    instance_id: str | None
    primary_since: datetime | None
    pool_id: str | None
    auto_switch_enabled: bool
    auto_terminate_enabled: bool
    manual_replica_enabled: bool
    launch_template: str | None
    epoch: int
    version: int
    not_before: datetime | None
    put_off_because: str | None
    probation_until: datetime | None
    drill_interval: int | None
    drilled_at: datetime | None
    cutover: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime

    @property
    def mode(self) -> Mode:
        """Mode that follows from the three switches."""
        if self.manual_replica_enabled:
            return Mode.MANUAL
        if self.auto_switch_enabled or self.auto_terminate_enabled:
            return Mode.AUTO
        return Mode.EMERGENCY_ONLY

    @property
    def next_drill_at(self) -> datetime | None:
        """Time of the next drill, or None without drills; an open incident delays it."""
        if self.drill_interval is None:
            return None
        return (self.drilled_at or self.created_at) + timedelta(seconds=self.drill_interval)

    def with_targets(self, targets: Mapping[str, Any] | None) -> "Agent":
        """Return the agent as it is with other cutover targets."""
        return replace(self, cutover=None if targets is None else dict(targets))

    def is_drill_due(self, now: datetime) -> bool:
        """Return True if the next drill is due."""
        return self.next_drill_at is not None and now >= self.next_drill_at

    def is_postponed(self, now: datetime) -> bool:
        """Return True if the agent's unfinished work is postponed now."""
        return self.not_before is not None and now < self.not_before <= now + LONGEST_PAUSE

    @property
    def subject(self) -> str:
        """Name of the primary in an incident, also while its instance is not known."""
        return self.instance_id or f"epoch-{self.epoch}"


def read_agent(connection: Connection, agent_id: str, *, lock: bool = False) -> Agent:
    """Return an agent.

    Args:
        lock: lock the row, so that no other transaction decides for the agent until this one ends.

    Raises:
        AgentNotFound: there is no such agent.
    """
    row = rows_where(connection, agents, {"id": agent_id}, lock=lock).one_or_none()
    if row is None:
        raise AgentNotFound(agent_id)
    return Agent(**row._mapping)


def update_agent(connection: Connection, agent: Agent, now: datetime, **values: Any) -> None:
    """Change an agent that was read in this transaction.

    Raises:
        VersionConflict: another writer has changed the row since.
    """
    if values.get("instance_id", agent.instance_id) != agent.instance_id:
        values["primary_since"] = now
    key = {"id": agent.id, "epoch": agent.epoch}
    swap(connection, agents, key, version=agent.version, updated_at=now, **values)


def postpone_agent(
    connection: Connection, agent: Agent, now: datetime, pause: timedelta, reason: str
) -> None:
    """Postpone the unfinished work of an agent that was read in this transaction."""
    update_agent(connection, agent, now, not_before=now + pause, put_off_because=reason)


def insert_agent(connection: Connection, agent_id: str, now: datetime, **values: Any) -> None:
    """Register an agent."""
    connection.execute(insert(agents).values(id=agent_id, created_at=now, updated_at=now, **values))
