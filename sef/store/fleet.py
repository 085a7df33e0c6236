"""Agents: their instance, their modes, and which of them have unfinished work."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    union_all,
)

from sef.core.policy import LOSING, AgentState, Goal, Kind, Mode
from sef.core.replica import Market, Status
from sef.errors import AgentNotFound
from sef.store.statements import rows_where, swap
from sef.store.tables import (
    agents,
    cutovers,
    incidents,
    price_series,
    replica_instances,
    retirements,
)

RECENTLY = timedelta(minutes=1)

LEFT_TO_ITS_REQUEST = timedelta(seconds=2)
"""So long the request that has brought a notice is left alone with it."""

LONGEST_PAUSE = timedelta(minutes=10)
"""A longer back-off was written by a worker whose clock is wrong, and is not waited for."""


class Lane(StrEnum):
    """Work that does not wait for that of another lane."""

    URGENT = "urgent"  # an instance is being lost, or is lost
    ORDINARY = "ordinary"
    RETRY = "retry"  # it did not get on a moment ago, and may hang again


@dataclass(frozen=True, slots=True)
class Due:
    agent_id: str
    lane: Lane

    @property
    def is_retry(self) -> bool:
        return self.lane is Lane.RETRY


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
    """Its cutover targets, as `sef.core.targets` reads them."""
    created_at: datetime
    updated_at: datetime

    @property
    def mode(self) -> Mode:
        return self.state(self.updated_at).mode

    def state(self, now: datetime) -> AgentState:
        return AgentState(
            self.manual_replica_enabled,
            self.auto_switch_enabled,
            self.auto_terminate_enabled,
            on_probation=self.probation_until is not None and now < self.probation_until,
        )

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


def put_off(
    connection: Connection, agent: Agent, now: datetime, pause: timedelta, because: str
) -> None:
    """Let the unfinished work of an agent, which was read in this transaction, rest for a while."""
    update_agent(connection, agent, now, not_before=now + pause, put_off_because=because)


def insert_agent(connection: Connection, agent_id: str, now: datetime, **values: Any) -> None:
    connection.execute(insert(agents).values(id=agent_id, created_at=now, updated_at=now, **values))


def agents_with_work(
    connection: Connection, now: datetime, *, checked_before: datetime
) -> Sequence[Due]:
    """The agents for which something is unfinished, the most urgent first.

    `checked_before`: a standby, or a former primary that still runs, that was last looked at
    before then is looked at again; so is one that a wrong clock has looked at in the future.
    """
    replica, incident, retirement = replica_instances.c, incidents.c, retirements.c
    unchecked = or_(
        replica.checked_at.is_(None),
        replica.checked_at <= checked_before,
        replica.checked_at > now + (now - checked_before),
    )
    never = literal(None, incident.deadline.type)
    # Drills are switches, too, but nothing is lost if they wait.
    is_emergency = and_(incident.goal == Goal.SWITCH, incident.kind.in_(LOSING))
    # Who has just brought a notice is at it: in a storm, every promotion would be prepared twice.
    nobody_is_at_it = or_(
        incident.kind != Kind.INTERRUPTION,
        incident.termination_at.is_(None),
        incident.termination_at <= now - LEFT_TO_ITS_REQUEST,
        incident.termination_at > now,  # by a clock that is wrong
    )
    # Each part is found by an index of its own.
    work = union_all(
        select(
            incident.open_agent_id.label("id"),
            case((is_emergency, 0), else_=1).label("urgency"),
            incident.deadline.label("deadline"),
        ).where(incident.open_agent_id.is_not(None), nobody_is_at_it),
        select(replica.agent_id, literal(1), never).where(
            replica.status.in_([Status.LAUNCHING, Status.RELEASING])
        ),
        select(replica.agent_id, literal(1), never).where(
            replica.status == Status.READY, unchecked
        ),
        select(replica.agent_id, literal(2), never)
        .join(agents, agents.c.id == replica.agent_id)
        .where(
            replica.status == Status.PROMOTED,
            agents.c.instance_id != replica.instance_id,
            unchecked,
        ),
        select(retirement.agent_id, literal(2), never).where(
            retirement.terminated_at.is_(None),
            retirement.obstacle.is_(None),
            retirement.not_before <= now,
            ~exists().where(
                cutovers.c.open_agent_id == retirement.agent_id, cutovers.c.served_at.is_(None)
            ),
        ),
        select(
            cutovers.c.open_agent_id,
            case((cutovers.c.deadline.is_not(None), 0), else_=1),
            cutovers.c.deadline,
        ).where(cutovers.c.due_at <= now),
        select(agents.c.id, literal(1), never)
        .outerjoin(replica_instances, replica.live_agent_id == agents.c.id)
        .where(agents.c.manual_replica_enabled, replica.id.is_(None)),
        select(agents.c.id, literal(1), never)
        .outerjoin(replica_instances, replica.live_agent_id == agents.c.id)
        .where(agents.c.probation_until > now, replica.id.is_(None)),
    ).subquery()
    urgency = func.min(work.c.urgency)
    rows = connection.execute(
        select(work.c.id, urgency.label("urgency"), func.min(agents.c.not_before).label("since"))
        .join(agents, agents.c.id == work.c.id)
        .where(
            or_(
                agents.c.not_before.is_(None),
                agents.c.not_before <= now,
                agents.c.not_before > now + LONGEST_PAUSE,
                # A cutover is put off by its own steps alone.
                exists().where(cutovers.c.open_agent_id == agents.c.id, cutovers.c.due_at <= now),
            )
        )
        .group_by(work.c.id)
        .order_by(
            urgency,
            func.min(work.c.deadline).is_(None),  # NULL is the smallest otherwise
            func.min(work.c.deadline),
            work.c.id,
        )
    )
    due = []
    for row in rows:
        lane = Lane.URGENT if row.urgency == 0 else Lane.ORDINARY
        if row.since is not None and now - RECENTLY < row.since <= now:
            lane = Lane.RETRY
        due.append(Due(row.id, lane))
    return due


def heard_since(connection: Connection, agent_id: str, since: datetime) -> bool:
    """Whether the primary has reported since then."""
    return bool(connection.scalar(select(_heard(literal(agent_id), since))))


def _heard(agent_id: ColumnElement[str], since: datetime) -> ColumnElement[bool]:
    series = price_series.c
    return exists().where(series.agent_id == agent_id, series.primary_heard_at > since)


def silent_agents(connection: Connection, since: datetime, *, limit: int) -> Sequence[Agent]:
    """Agents whose known primary has said nothing since then, nor was new, and is not replaced yet.

    What the standby reports is no word of the primary's.
    """
    incident = incidents.c
    heard = _heard(agents.c.id, since)
    in_hand = exists().where(incident.open_agent_id == agents.c.id, incident.goal == Goal.SWITCH)
    rows = connection.execute(
        select(agents)
        .where(
            agents.c.instance_id.is_not(None),
            func.coalesce(agents.c.primary_since, agents.c.created_at) <= since,
            ~heard,
            ~in_hand,
        )
        .order_by(agents.c.id)
        .limit(limit)
    )
    return [Agent(**row._mapping) for row in rows]


def drills_due(connection: Connection, now: datetime) -> Sequence[Agent]:
    """Agents whose last drill, or whose registration, is longer ago than their interval."""
    incident = incidents.c
    in_hand = exists().where(incident.open_agent_id == agents.c.id)
    rows = connection.execute(
        select(agents).where(
            agents.c.drill_interval.is_not(None), agents.c.instance_id.is_not(None), ~in_hand
        )
    )
    found = [Agent(**row._mapping) for row in rows]
    return [agent for agent in found if agent.is_drill_due(now)]


def on_demand_since(connection: Connection, before: datetime) -> Sequence[Agent]:
    """Agents, not in manual mode, whose primary SEF launched on-demand and promoted before then.

    Those of whom something is in hand, or was in hand since then, are left out.
    """
    replica, incident = replica_instances.c, incidents.c
    # Two conditions and not one with OR, for which every incident ever would be read.
    in_hand = exists().where(incident.open_agent_id == agents.c.id)
    was_in_hand = exists().where(incident.agent_id == agents.c.id, incident.closed_at > before)
    rows = connection.execute(
        select(agents)
        .join(replica_instances, replica.instance_id == agents.c.instance_id)
        .where(
            replica.status == Status.PROMOTED,
            replica.market == Market.ON_DEMAND,
            replica.promoted_at <= before,
            ~agents.c.manual_replica_enabled,
            ~in_hand,
            ~was_in_hand,
        )
    )
    return [Agent(**row._mapping) for row in rows]
