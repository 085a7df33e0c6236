"""Cutovers and their steps."""

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


@dataclass(frozen=True, slots=True)
class Cutover:
    id: str
    agent_id: str
    epoch: int
    incident_id: str | None
    old_instance_id: str | None
    new_instance_id: str
    pool_id: str | None
    deadline: datetime | None
    is_hurried: bool
    status: CutoverStatus
    open_agent_id: str | None
    due_at: datetime | None
    started_at: datetime
    traffic_moved_at: datetime | None
    finished_at: datetime | None
    version: int


@dataclass(frozen=True, slots=True)
class CutoverStep:
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
    """Write down what is to follow the new primary of an agent, which was read before it had it.

    A cutover that is still under way is over: the new one is to do all that it had to.
    """
    supersede_cutover(connection, agent.id, f"{new_instance_id} is the primary now", now)
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
    pending = [_row(cutover_id, n, step, now) for n, step in enumerate(steps)]
    skipped = [
        _row(cutover_id, n, step, now)
        | {"status": StepStatus.SKIPPED, "finished_at": now, "error": "there was no time for it"}
        for n, step in enumerate(skipped_steps(agent.cutover, left), start=len(steps))
    ]
    for row in pending + skipped:
        connection.execute(insert(cutover_steps).values(**row))
    time_left = "nothing presses" if left is None else f"{left.total_seconds():.0f} s are left"
    kinds = ", ".join(dict.fromkeys(step.kind for step in steps))
    event = Event(
        "cutover_started",
        f"{new_instance_id} takes over from {agent.instance_id or 'the unknown primary'}, "
        f"{time_left}: {kinds}",
        agent.id,
        details={"cutover_id": cutover_id, "epoch": agent.epoch + 1},
        incident_id=incident_id,
    )
    write_events(connection, [event], now)


def _row(cutover_id: str, position: int, step: PlannedStep, now: datetime) -> dict[str, Any]:
    return {
        "cutover_id": cutover_id,
        "position": position,
        "stage": step.stage,
        "kind": step.kind,
        "target": step.target,
        "status": StepStatus.PENDING,
        "not_before": now,
    }


def supersede_cutover(connection: Connection, agent_id: str, why: str, now: datetime) -> None:
    """End a cutover that is under way: the agent has another primary."""
    cutover = open_cutover(connection, agent_id)
    if cutover is None:
        return
    end_cutover(connection, cutover, CutoverStatus.SUPERSEDED, now)
    event = Event(
        "cutover_superseded",
        f"the cutover to {cutover.new_instance_id} is given up: {why}",
        agent_id,
        "warning",
        details={"cutover_id": cutover.id, "epoch": cutover.epoch},
        incident_id=cutover.incident_id,
        notification=NotificationKind.OUTCOME if cutover.incident_id else None,
    )
    write_events(connection, [event], now)


def open_cutover(connection: Connection, agent_id: str) -> Cutover | None:
    return _one(connection, open_agent_id=agent_id)


def latest_cutover(connection: Connection, agent_id: str) -> Cutover | None:
    return _one(connection, agent_id=agent_id)


def cutover_of_epoch(connection: Connection, agent_id: str, epoch: int) -> Cutover | None:
    """What followed the primary with which an epoch of the agent began."""
    return _one(connection, agent_id=agent_id, epoch=epoch)


def steps_of(connection: Connection, cutover_id: str) -> Sequence[CutoverStep]:
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
    """Change columns of a step that was read; Stale if it has changed since."""
    key = {"cutover_id": step.cutover_id, "position": step.position}
    swap(connection, cutover_steps, key, version=step.version, **values)


def refresh_cutover_status(
    connection: Connection, cutover: Cutover, now: datetime
) -> CutoverStatus:
    """Bring a cutover up to what its steps are by now; returns where it stands."""
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
    """AWS has announced the end of an instance: a cutover away from it has a deadline now."""
    cutover = open_cutover(connection, agent_id)
    if cutover is None or cutover.old_instance_id != instance_id:
        return
    if cutover.deadline is None or deadline < cutover.deadline:
        _change(connection, cutover, deadline=deadline, due_at=now)


def former_instances(connection: Connection, agent_id: str) -> set[str]:
    """The instances that cutovers of an agent have led away from, or to."""
    columns = cutovers.c
    rows = connection.execute(
        select(columns.old_instance_id, columns.new_instance_id).where(columns.agent_id == agent_id)
    )
    return {instance for row in rows for instance in row if instance is not None}


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
