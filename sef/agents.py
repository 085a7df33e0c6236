"""An agent's row: its primary, its modes, and the work that is postponed.

A change of primary starts another epoch. Learning the instance of a primary that was unknown does
not: the open incident, its standby and its launch go on (`learn_primary`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from sef.db.statements import change, rows_where, swap, upsert
from sef.db.tables import (
    agent_instances,
    agents,
    incidents,
    named_devices,
    replica_instances,
    spot_interruption_events,
)
from sef.errors import AgentNotFound
from sef.identity import Door, Role, may_become_primary, role_of
from sef.terms import UNNAMED, Mode, ReplicaStatus

LONGEST_PAUSE = timedelta(minutes=10)
"""The longest pause of an agent's work that SEF accepts.

A worker with a fast clock may write a longer pause. Without this limit, the agent's work would stop
for all of it.
"""

_LOOK_AT_DEVICES = (
    update(named_devices)
    .where(named_devices.c.agent_id == bindparam("agent"), named_devices.c.dropped_at.is_(None))
    .values(due_at=bindparam("now"))
)
"""Another instance may be the holder of the targets: look if they are deleted with it."""


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
        """Name of the primary in a new incident, also while its instance is not known."""
        return self.instance_id or self.unnamed_subject

    @property
    def unnamed_subject(self) -> str:
        """Name of this epoch's primary in an incident from before its instance was known."""
        return f"epoch-{self.epoch}"

    def is_subject(self, subject: str) -> bool:
        """Return True if an incident with this subject is about the current primary."""
        return subject in (self.instance_id, self.unnamed_subject)


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
        connection.execute(_LOOK_AT_DEVICES, {"agent": agent.id, "now": now})
        if agent.instance_id is not None:
            former = {"agent_id": agent.id, "instance_id": agent.instance_id, "primary_until": now}
            upsert(connection, agent_instances, [former])
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


def instance_role(connection: Connection, agent_id: str, instance_id: str) -> Role:
    """Return the role of an instance that is not the agent's primary."""
    known, incident, replica = agent_instances.c, incidents.c, replica_instances.c
    row = connection.execute(
        select(
            select(replica.status).where(replica.instance_id == instance_id).scalar_subquery(),
            exists().where(
                known.agent_id == agent_id,
                known.instance_id == instance_id,
                known.primary_until.is_not(None),
            ),
            exists().where(
                incident.agent_id == agent_id,
                or_(incident.subject == instance_id, incident.instance_id == instance_id),
            ),
        )
    ).one()
    status, was_primary, has_incident = row
    return role_of(
        ReplicaStatus(status) if status else None,
        was_primary=bool(was_primary),
        has_incident=bool(has_incident),
    )


def learn_primary(
    connection: Connection, agent: Agent, instance_id: str, pool_id: str | None, now: datetime
) -> Agent:
    """Store the instance of a primary that was unknown, and name it in the open incident.

    Args:
        agent: the agent, locked by this transaction, without a known instance.
        pool_id: pool of the instance as far as it is known; a pool that the agent has already is
            that of its primary, and stays.
    """
    pool_id = agent.pool_id or pool_id
    update_agent(connection, agent, now, instance_id=instance_id, pool_id=pool_id)
    key = {"open_agent_id": agent.id, "subject": agent.unnamed_subject}
    for row in rows_where(connection, incidents, key).all():
        name_incident(connection, row.id, row.version, instance_id, row.pool_id or pool_id)
    return read_agent(connection, agent.id)


def name_incident(
    connection: Connection, incident_id: str, version: int, instance_id: str, pool_id: str | None
) -> None:
    """Store the instance and the pool of an incident and of its signals.

    Raises:
        VersionConflict: the incident has changed since it was read.
    """
    named = {"instance_id": instance_id, "pool_id": pool_id}
    swap(connection, incidents, {"id": incident_id}, version=version, **named)
    change(connection, spot_interruption_events, {"incident_id": incident_id}, **named)


def set_pool(connection: Connection, agent: Agent, pool_id: str, now: datetime) -> None:
    """Store the pool of the known primary, also in its open incident.

    Raises:
        VersionConflict: the agent or the incident has changed since it was read.
    """
    update_agent(connection, agent, now, pool_id=pool_id)
    name_pool(connection, agent, pool_id)


def name_pool(connection: Connection, agent: Agent, pool_id: str | None) -> None:
    """Store the pool of the primary in the agent's open incident, if it is about the primary."""
    for row in rows_where(connection, incidents, {"open_agent_id": agent.id}).all():
        if agent.is_subject(row.subject) and row.pool_id != pool_id:
            swap(connection, incidents, {"id": row.id}, version=row.version, pool_id=pool_id)


def learn_from_report(
    connection: Connection, agent_id: str, named: str | None, pool_id: str, now: datetime
) -> None:
    """Take the instance and the pool of the primary from its report while they are unknown.

    Args:
        named: the instance that the report names.
        pool_id: the pool whose price the report gives.
    """
    seen = read_agent(connection, agent_id)
    if seen.instance_id is None and named is not None:
        if not may_become_primary(Door.REPORT, instance_role(connection, agent_id, named)):
            return
    elif seen.pool_id is not None or not _is_primary(connection, seen, named):
        return
    agent = read_agent(connection, agent_id, lock=True)
    if agent.instance_id != seen.instance_id:
        return  # another transaction has set the primary: the next report is judged again
    if agent.instance_id is None and named is not None:
        learn_primary(connection, agent, named, pool_id, now)
    elif agent.pool_id is None:
        set_pool(connection, agent, pool_id, now)


def _is_primary(connection: Connection, agent: Agent, named: str | None) -> bool:
    """Return True if a report that names this instance, or none, can only be the primary's."""
    if named is not None:
        return named == agent.instance_id
    others = others_may_report(literal(agent.id), literal(agent.instance_id or UNNAMED))
    return not connection.scalar(select(others))


def others_may_report(
    agent_id: ColumnElement[str], instance_id: ColumnElement[Any]
) -> ColumnElement[bool]:
    """Return the condition that a report without an instance may come from another instance.

    Such an instance has reported under its id, was the agent's primary, or is its ready standby.
    """
    known, replica = agent_instances.c, replica_instances.c
    return or_(
        exists().where(
            known.agent_id == agent_id,
            known.instance_id.not_in((UNNAMED,)),
            known.instance_id != func.coalesce(instance_id, UNNAMED),
        ),
        exists().where(replica.live_agent_id == agent_id, replica.ready_at.is_not(None)),
    )


def former_primary(connection: Connection, agent: Agent) -> tuple[str, datetime] | None:
    """Return the latest former primary whose instance was known, and the end of its time."""
    known = agent_instances.c
    row = connection.execute(
        select(known.instance_id, known.primary_until)
        .where(
            known.agent_id == agent.id,
            known.primary_until.is_not(None),
            known.instance_id != (agent.instance_id or UNNAMED),
        )
        .order_by(known.primary_until.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else (row.instance_id, row.primary_until)
