"""Store cutovers and their steps: change, end and read them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, select

from sef.cloud.placement import Binding
from sef.db.statements import rows_where, swap
from sef.db.tables import cutover_bindings, cutover_steps, cutovers
from sef.failover.cutover.carriers import carriers
from sef.failover.cutover.plan import (
    StepState,
    next_due,
    next_look,
    traffic_moved,
)
from sef.failover.cutover.taken import Taken
from sef.terms import OPEN_CUTOVERS, CutoverStatus, StepKind, StepStatus

NO_TIME = "not enough time before the deadline"
"""Error of a step that is skipped in a hurried cutover."""

_OVER = (StepStatus.DONE, StepStatus.SKIPPED)


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
    """Earliest end of an instance that holds targets; None: no end is known."""
    is_hurried: bool
    """True if a step has the order of `plan.HURRIED`, for a few seconds of time."""
    status: CutoverStatus
    open_agent_id: str | None
    """ID of the agent while the cutover is open; UNIQUE, so an agent has one open cutover."""
    due_at: datetime | None
    """Time of the next attempt of a step; None once the cutover is over."""
    started_at: datetime
    traffic_moved_at: datetime | None
    """Time from which only the `after` webhook was left."""
    finished_at: datetime | None
    looked_at: datetime | None
    """Time of the last look at the former primaries."""
    not_running: dict[str, Any] | None
    """Former primaries that did not run then; see `sef.failover.cutover.look`."""
    version: int

    @property
    def is_open(self) -> bool:
        return self.open_agent_id is not None


@dataclass(frozen=True, slots=True)
class CutoverStep:
    """A row of `cutover_steps`."""

    cutover_id: str
    position: int
    kind: StepKind
    target: Any
    status: StepStatus
    attempts: int
    not_before: datetime
    started_at: datetime | None
    finished_at: datetime | None
    latency_ms: int | None
    ends_at: datetime | None
    """End of the instance that holds the target; None: no end is known."""
    is_hurried: bool
    is_guarded: bool
    """True: no promotion asked for the step, and it takes nothing from a strange instance."""
    error: str | None
    version: int
    is_waiting: bool = False
    """True: AWS throttled the last attempt, or the step waits on purpose; it does not time out."""
    taken_from: dict[str, Any] | None = None
    """Instance that gave the target; see `sef.failover.cutover.taken`."""

    @property
    def state(self) -> StepState:
        return StepState(
            self.position,
            self.kind,
            self.status,
            self.not_before,
            self.started_at,
            self.ends_at,
            self.is_hurried,
            self.is_waiting,
            goes_back=Taken.read(self.taken_from).goes_back,
        )

    @property
    def target_id(self) -> str:
        target = self.target
        return str(target.get("id") if isinstance(target, dict) else target)


def insert_steps(
    connection: Connection,
    cutover_id: str,
    first: int,
    steps: Sequence[tuple[StepKind, Any]],
    now: datetime,
    **values: Any,
) -> None:
    """Insert steps of a cutover, by default pending and due, from a position on."""
    for position, (kind, target) in enumerate(steps, first):
        row = {
            "cutover_id": cutover_id,
            "position": position,
            "kind": kind,
            "target": target,
            "status": StepStatus.PENDING,
            "not_before": now,
        }
        connection.execute(insert(cutover_steps).values(**row | values))


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


def bindings_of(connection: Connection, agent_id: str) -> dict[str, Binding]:
    """Return how the targets of an agent were bound at its primaries, by `holder_name`."""
    rows = rows_where(connection, cutover_bindings, {"agent_id": agent_id})
    return {row.target: Binding.read(row.instance_id, row.binding) for row in rows}


def states_of(
    connection: Connection, cutover: Cutover, steps: Sequence[CutoverStep]
) -> list[StepState]:
    """Return the states of steps, each with the kinds of the steps that carry its target."""
    bindings = bindings_of(connection, cutover.agent_id)
    moving = {(step.kind, step.target_id) for step in steps if step.status not in _OVER}
    return [
        replace(step.state, after=carriers(step.kind, step.target, bindings, moving))
        for step in steps
    ]


def change_step(connection: Connection, step: CutoverStep, **values: Any) -> None:
    """Change columns of a step that was read.

    Raises:
        VersionConflict: the row has changed since it was read.
    """
    key = {"cutover_id": step.cutover_id, "position": step.position}
    swap(connection, cutover_steps, key, version=step.version, **values)


def latency_of(started_at: datetime | None, now: datetime) -> int:
    """Return the time since the first attempt in ms; 0 if the clock was set back since."""
    return max(0, round((now - (started_at or now)) / timedelta(milliseconds=1)))


def refresh_cutover_status(
    connection: Connection, cutover: Cutover, now: datetime, **values: Any
) -> CutoverStatus:
    """Compute the status of a cutover from its steps, save it and return it.

    Args:
        values: other columns to save.
    """
    states = states_of(connection, cutover, steps_of(connection, cutover.id))
    due_at = next_due(states, now)
    if due_at is None:
        end_cutover(connection, cutover, CutoverStatus.DONE, now)
        return CutoverStatus.DONE
    has_failed = any(s.is_unfinished and s.status is StepStatus.FAILED for s in states)
    status = CutoverStatus.NEEDS_OPERATOR if has_failed else CutoverStatus.RUNNING
    traffic_moved_at = None
    if traffic_moved(states):
        traffic_moved_at = cutover.traffic_moved_at or now
    else:
        looked_at = values.get("looked_at", cutover.looked_at)
        due_at = min(due_at, next_look(cutover.started_at, looked_at, now))
    change_cutover(
        connection,
        cutover,
        status=status,
        due_at=due_at,
        traffic_moved_at=traffic_moved_at,
        **values,
    )
    return status


def end_cutover(
    connection: Connection, cutover: Cutover, status: CutoverStatus, now: datetime
) -> None:
    """End a cutover with a final status. `DONE` also means that the traffic has moved."""
    traffic_moved_at = cutover.traffic_moved_at or (now if status is CutoverStatus.DONE else None)
    change_cutover(
        connection,
        cutover,
        status=status,
        due_at=None,
        finished_at=now,
        traffic_moved_at=traffic_moved_at,
    )


def look_again(connection: Connection, agent_id: str, now: datetime) -> None:
    """Let the open cutover of an agent look at the former primaries again: one of them ends."""
    cutover = open_cutover(connection, agent_id)
    if cutover is not None:
        change_cutover(connection, cutover, looked_at=None, due_at=now)


def change_cutover(connection: Connection, cutover: Cutover, **values: Any) -> None:
    """Change columns of a cutover that was read.

    Raises:
        VersionConflict: the row has changed since it was read.
    """
    status = values.get("status", cutover.status)
    is_open = status in OPEN_CUTOVERS
    values["open_agent_id"] = cutover.agent_id if is_open else None
    swap(connection, cutovers, {"id": cutover.id}, version=cutover.version, **values)


def _one(connection: Connection, **key: Any) -> Cutover | None:
    row = rows_where(connection, cutovers, key, newest_by="epoch").one_or_none()
    if row is None:
        return None
    return Cutover(**{**row._mapping, "status": CutoverStatus(row.status)})
