from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert

from sef.db.statements import rows_where, swap
from sef.db.tables import agents
from sef.errors import AgentNotFound
from sef.terms import Mode

LONGEST_PAUSE = timedelta(minutes=10)
"""A longer back-off was written by a worker whose clock is wrong, and is not waited for."""


@dataclass(frozen=True, slots=True)
class Agent:
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
    """Why its work rests until then; of no meaning when that is over."""
    probation_until: datetime | None
    drill_interval: int | None
    drilled_at: datetime | None
    cutover: dict[str, Any] | None
    """Its cutover targets, as `sef.failover.cutover.targets` reads them."""
    created_at: datetime
    updated_at: datetime

    @property
    def mode(self) -> Mode:
        if self.manual_replica_enabled:
            return Mode.MANUAL
        if self.auto_switch_enabled or self.auto_terminate_enabled:
            return Mode.AUTO
        return Mode.EMERGENCY_ONLY

    @property
    def next_drill_at(self) -> datetime | None:
        """None without drills. While an incident is open it waits."""
        if self.drill_interval is None:
            return None
        return (self.drilled_at or self.created_at) + timedelta(seconds=self.drill_interval)

    def is_drill_due(self, now: datetime) -> bool:
        return self.next_drill_at is not None and now >= self.next_drill_at

    def is_postponed(self, now: datetime) -> bool:
        return self.not_before is not None and now < self.not_before <= now + LONGEST_PAUSE

    @property
    def subject(self) -> str:
        """What stands for the primary in an incident, also while its instance is not known."""
        return self.instance_id or f"epoch-{self.epoch}"


def read_agent(connection: Connection, agent_id: str, *, lock: bool = False) -> Agent:
    """Raises AgentNotFound. With `lock`, nobody else decides for the agent until the end."""
    row = rows_where(connection, agents, {"id": agent_id}, lock=lock).one_or_none()
    if row is None:
        raise AgentNotFound(agent_id)
    return Agent(**row._mapping)


def update_agent(connection: Connection, agent: Agent, now: datetime, **values: Any) -> None:
    """Change an agent that was read in this transaction; Stale if it is another by now."""
    if values.get("instance_id", agent.instance_id) != agent.instance_id:
        values["primary_since"] = now
    key = {"id": agent.id, "epoch": agent.epoch}
    swap(connection, agents, key, version=agent.version, updated_at=now, **values)


def postpone_agent(
    connection: Connection, agent: Agent, now: datetime, pause: timedelta, because: str
) -> None:
    """Let the unfinished work of an agent, which was read in this transaction, rest for a while."""
    update_agent(connection, agent, now, not_before=now + pause, put_off_because=because)


def insert_agent(connection: Connection, agent_id: str, now: datetime, **values: Any) -> None:
    connection.execute(insert(agents).values(id=agent_id, created_at=now, updated_at=now, **values))
