"""Store cutovers and their steps: begin, change, end and read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, insert, select

from sef.agents import Agent
from sef.db.statements import rows_where, swap
from sef.db.tables import cutover_steps, cutovers
from sef.failover.cutover.plan import (
    PlannedStep,
    StepState,
    is_hurried,
    next_due,
    plan_steps,
    skipped_steps,
    traffic_moved,
)
from sef.notifications.events import Event, write_events
from sef.terms import OPEN_CUTOVERS, CutoverStatus, NotificationKind, StepKind, StepStatus

NO_TIME = "not enough time before the deadline"
"""Error of a step that is skipped in a hurried cutover."""


@dataclass(frozen=True, slots=True)
class Cutover:
    """A cutover: the targets of an agent move from one primary to the next."""

    id: str
    agent_id: str
    epoch: int
    """Epoch of the agent that began with the promotion."""
    incident_id: str | None
    old_instance_id: str | None
    new_instance_id: str
    pool_id: str | None
    deadline: datetime | None
    """Announced end of the old primary; None if nothing was announced."""
    is_hurried: bool
    """True if the cutover has the steps of `plan.HURRIED`, for a few seconds of time."""
    status: CutoverStatus
    open_agent_id: str | None
    """ID of the agent while the cutover is open; UNIQUE, so an agent has one open cutover."""
    due_at: datetime | None
    """Time of the next attempt of a step; None once the cutover is over."""
    started_at: datetime
    traffic_moved_at: datetime | None
    """Time from which only the `after` webhook was left."""
    finished_at: datetime | None
    version: int


@dataclass(frozen=True, slots=True)
class CutoverStep:
    """A row of `cutover_steps`."""

    cutover_id: str
    position: int
    stage: int
    kind: StepKind
    target: Any
    status: StepStatus
    attempts: int
    not_before: datetime
    started_at: datetime | None
    finished_at: datetime | None
    latency_ms: int | None
    error: str | None
    version: int

    @property
    def state(self) -> StepState:
        return StepState(self.position, self.stage, self.kind, self.status, self.not_before)


def begin_cutover(
    connection: Connection,
    agent: Agent,
    new_instance_id: str,
    pool_id: str | None,
    incident_id: str | None,
    deadline: datetime | None,
    now: datetime,
) -> None:
    """Begin the cutover of a promotion, if the agent has cutover targets.

    It supersedes an open cutover and moves all targets again.

    Args:
        agent: the row before the promotion.
    """
    supersede_cutover(connection, agent.id, f"{new_instance_id} was promoted", now)
    if agent.cutover is None:
        return
    left = None if deadline is None else deadline - now
    steps = plan_steps(agent.cutover, left)
    cutover_id = f"cutover-{uuid4().hex[:16]}"
    connection.execute(
        insert(cutovers).values(
            id=cutover_id,
            agent_id=agent.id,
            epoch=agent.epoch + 1,
            incident_id=incident_id,
            old_instance_id=agent.instance_id,
            new_instance_id=new_instance_id,
            pool_id=pool_id,
            deadline=deadline,
            is_hurried=is_hurried(left),
            status=CutoverStatus.RUNNING,
            open_agent_id=agent.id,
            due_at=now,
            started_at=now,
        )
    )
    _insert_steps(connection, cutover_id, steps, skipped_steps(agent.cutover, left), now)
    time_left = "without a deadline" if left is None else f"with {left.total_seconds():.0f} s left"
    kinds = ", ".join(dict.fromkeys(step.kind for step in steps))
    event = Event(
        "cutover_started",
        f"Cutover from {agent.instance_id or 'the unknown primary'} to {new_instance_id} started "
        f"{time_left}: {kinds}",
        agent.id,
        details={"cutover_id": cutover_id, "epoch": agent.epoch + 1},
        incident_id=incident_id,
    )
    write_events(connection, [event], now)


def supersede_cutover(connection: Connection, agent_id: str, reason: str, now: datetime) -> None:
    """End the open cutover of an agent, if there is one: the agent has another primary."""
    cutover = open_cutover(connection, agent_id)
    if cutover is None:
        return
    end_cutover(connection, cutover, CutoverStatus.SUPERSEDED, now)
    event = Event(
        "cutover_superseded",
        f"Cutover to {cutover.new_instance_id} superseded: {reason}",
        agent_id,
        severity="warning",
        details={"cutover_id": cutover.id, "epoch": cutover.epoch},
        incident_id=cutover.incident_id,
        notification=NotificationKind.OUTCOME if cutover.incident_id else None,
        matter=(cutover.id,),
    )
    write_events(connection, [event], now)


def open_cutover(connection: Connection, agent_id: str) -> Cutover | None:
    """Return the open cutover of an agent, if there is one."""
    return _one(connection, open_agent_id=agent_id)


def latest_cutover(connection: Connection, agent_id: str) -> Cutover | None:
    """Return the last cutover of an agent, open or ended."""
    return _one(connection, agent_id=agent_id)


def cutover_of_epoch(connection: Connection, agent_id: str, epoch: int) -> Cutover | None:
    """Return the cutover of the promotion with which an epoch of the agent began."""
    return _one(connection, agent_id=agent_id, epoch=epoch)


def steps_of(connection: Connection, cutover_id: str) -> Sequence[CutoverStep]:
    """Return the steps of a cutover, in order."""
    rows = connection.execute(
        select(cutover_steps)
        .where(cutover_steps.c.cutover_id == cutover_id)
        .order_by(cutover_steps.c.position)
    )
    return [
        CutoverStep(
            **{**row._mapping, "kind": StepKind(row.kind), "status": StepStatus(row.status)}
        )
        for row in rows
    ]


def change_step(connection: Connection, step: CutoverStep, **values: Any) -> None:
    """Change columns of a step that was read.

    Raises:
        VersionConflict: the row has changed since it was read.
    """
    key = {"cutover_id": step.cutover_id, "position": step.position}
    swap(connection, cutover_steps, key, version=step.version, **values)


def refresh_cutover_status(
    connection: Connection, cutover: Cutover, now: datetime
) -> CutoverStatus:
    """Compute the status of a cutover from its steps, save it and return it."""
    states = [step.state for step in steps_of(connection, cutover.id)]
    due_at = next_due(states, cutover.deadline)
    if due_at is None:
        end_cutover(connection, cutover, CutoverStatus.DONE, now)
        return CutoverStatus.DONE
    has_failed = any(s.is_unfinished and s.status is StepStatus.FAILED for s in states)
    status = CutoverStatus.NEEDS_OPERATOR if has_failed else CutoverStatus.RUNNING
    traffic_moved_at = cutover.traffic_moved_at or (now if traffic_moved(states) else None)
    _change(connection, cutover, status=status, due_at=due_at, traffic_moved_at=traffic_moved_at)
    return status


def end_cutover(
    connection: Connection, cutover: Cutover, status: CutoverStatus, now: datetime
) -> None:
    """End a cutover with a final status. `DONE` also means that the traffic has moved."""
    traffic_moved_at = cutover.traffic_moved_at or (now if status is CutoverStatus.DONE else None)
    _change(
        connection,
        cutover,
        status=status,
        due_at=None,
        finished_at=now,
        traffic_moved_at=traffic_moved_at,
    )


def set_cutover_deadline(
    connection: Connection, agent_id: str, instance_id: str, deadline: datetime, now: datetime
) -> None:
    """Set the deadline of a cutover away from an instance whose end AWS has announced.

    An earlier deadline stays.
    """
    cutover = open_cutover(connection, agent_id)
    if cutover is None or cutover.old_instance_id != instance_id:
        return
    if cutover.deadline is None or deadline < cutover.deadline:
        _change(connection, cutover, deadline=deadline, due_at=now)


def former_instances(connection: Connection, agent_id: str) -> set[str]:
    """Return the old and the new instance of every cutover of an agent."""
    columns = cutovers.c
    rows = connection.execute(
        select(columns.old_instance_id, columns.new_instance_id).where(columns.agent_id == agent_id)
    )
    return {instance for row in rows for instance in row if instance is not None}


def _insert_steps(
    connection: Connection,
    cutover_id: str,
    pending: Sequence[PlannedStep],
    skipped: Sequence[PlannedStep],
    now: datetime,
) -> None:
    for position, step in enumerate([*pending, *skipped]):
        row = {
            "cutover_id": cutover_id,
            "position": position,
            "stage": step.stage,
            "kind": step.kind,
            "target": step.target,
            "status": StepStatus.PENDING,
            "not_before": now,
        }
        if position >= len(pending):
            row |= {"status": StepStatus.SKIPPED, "finished_at": now, "error": NO_TIME}
        connection.execute(insert(cutover_steps).values(**row))


def _change(connection: Connection, cutover: Cutover, **values: Any) -> None:
    status = values.get("status", cutover.status)
    is_open = status in OPEN_CUTOVERS
    values["open_agent_id"] = cutover.agent_id if is_open else None
    swap(connection, cutovers, {"id": cutover.id}, version=cutover.version, **values)


def _one(connection: Connection, **key: Any) -> Cutover | None:
    row = rows_where(connection, cutovers, key, newest_by="epoch").one_or_none()
    if row is None:
        return None
    return Cutover(**{**row._mapping, "status": CutoverStatus(row.status)})
