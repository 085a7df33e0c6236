"""Look at the former primaries while a step waits, and compute how urgent each step is.

A cutover that began calmly must not leave a target with an instance that has ended, or whose end is
announced. While nothing else is due, SEF therefore asks EC2, every few seconds, if the former
primaries run. If they all have the same end, it is the end of every unfinished step. If they
differ, SEF asks AWS which of them holds each target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.cloud.ec2 import ALIVE, GONE
from sef.cloud.errors import CloudError
from sef.context import Context
from sef.failover.cutover.carriers import holder_name
from sef.failover.cutover.events import report_status
from sef.failover.cutover.formers import formers_of
from sef.failover.cutover.holders import Holders, holders_of
from sef.failover.cutover.plan import SKIPPED_IN_HURRY, is_hurried, next_look, traffic_moved
from sef.failover.cutover.rows import (
    NO_TIME,
    Cutover,
    CutoverStep,
    change_step,
    open_cutover,
    refresh_cutover_status,
    steps_of,
)
from sef.failover.cutover.targets import Targets
from sef.failover.cutover.urgency import (
    Former,
    NotRunning,
    after_look,
    common_end,
    end_of_holder,
    seen_not_running,
)
from sef.notifications.events import Event, write_events
from sef.terms import StepKind, StepStatus


@dataclass(frozen=True, slots=True)
class _Situation:
    cutover: Cutover
    targets: Targets | None
    formers: Sequence[Former]


@dataclass(frozen=True, slots=True)
class _Seen:
    """The result of a look.

    Attributes:
        holders: None if the former primaries have a common end, or AWS did not answer.
    """

    formers: Sequence[Former]
    not_running: dict[str, NotRunning]
    holders: Holders | None
    is_known: bool


def look_at_formers(ctx: Context, agent_id: str) -> str | None:
    """Look at the former primaries if it is time; return what has changed, or None."""
    situation = ctx.database.read(_read, ctx, agent_id)
    if situation is None:
        return None
    seen = _look(ctx, situation)
    return ctx.database.write(_record, ctx, situation.cutover, seen)


def _read(connection: Connection, ctx: Context, agent_id: str) -> _Situation | None:
    cutover = open_cutover(connection, agent_id)
    now = ctx.clock()
    if cutover is None or next_look(cutover.started_at, cutover.looked_at, now) > now:
        return None
    if traffic_moved([step.state for step in steps_of(connection, cutover.id)]):
        return None
    agent = read_agent(connection, agent_id)
    formers = formers_of(connection, agent_id, cutover.new_instance_id)
    return _Situation(cutover, agent.cutover, formers)


def _look(ctx: Context, situation: _Situation) -> _Seen:
    cutover, formers, now = situation.cutover, situation.formers, ctx.clock()
    not_running = _from_column(cutover.not_running)
    ids = [former.instance_id for former in formers]
    try:
        shown = ctx.attachments.shown(ids)
        alive = {
            instance_id: one.state in ALIVE
            for instance_id, one in shown.items()
            if one.state in ALIVE | GONE
        }
        not_running = seen_not_running(formers, alive, not_running, now)
    except CloudError:
        alive = {}  # the rows have to do
    formers = after_look(formers, alive, not_running, now)
    holders: Holders | None = None
    is_common, _ = common_end(formers, now)
    is_known = is_common
    if not is_common:
        try:
            holders = holders_of(ctx, situation.targets, ids)
            is_known = True
        except CloudError:
            is_known = False  # each step keeps its end until the next look
    return _Seen(formers, not_running, holders, is_known)


def _record(connection: Connection, ctx: Context, looked: Cutover, seen: _Seen) -> str | None:
    now = ctx.clock()
    read_agent(connection, looked.agent_id, lock=True)
    cutover = open_cutover(connection, looked.agent_id)
    if cutover is None or cutover.id != looked.id:
        return None
    changed = []
    if seen.is_known and seen.formers:
        for step in steps_of(connection, cutover.id):
            if step.state.is_unfinished and _set_end(connection, step, seen, now):
                changed.append(step)
    unfinished = [s for s in steps_of(connection, cutover.id) if s.state.is_unfinished]
    ends = [step.ends_at for step in unfinished if step.ends_at is not None]
    status = refresh_cutover_status(
        connection,
        cutover,
        now,
        looked_at=now,
        not_running=_to_column(seen.not_running),
        deadline=min(ends, default=None),
        is_hurried=any(step.is_hurried for step in unfinished),
    )
    if changed:
        _report(connection, cutover, unfinished, now)
    if status is not cutover.status:
        report_status(connection, cutover, status, now)
    return f"looked at the former primaries: {len(changed)} steps changed" if changed else None


def _set_end(connection: Connection, step: CutoverStep, seen: _Seen, now: datetime) -> bool:
    """Set the end of the holder of a step's target; return False if it is known already."""
    if seen.holders is None:
        _, ends_at = common_end(seen.formers, now)
    else:
        name = holder_name(step.kind, step.target)
        holders = None if name is None else seen.holders.by_target.get(name)
        ends_at = end_of_holder(holders, seen.formers, now)
    if ends_at == step.ends_at:
        return False
    hurried = is_hurried(None if ends_at is None else ends_at - now)
    values: dict[str, Any] = {"ends_at": ends_at, "is_hurried": hurried}
    if hurried and step.kind in SKIPPED_IN_HURRY:
        values |= {"status": StepStatus.SKIPPED, "finished_at": now, "error": NO_TIME}
    elif ends_at is not None and step.kind is not StepKind.RUNNING:
        values["not_before"] = now
    change_step(connection, step, **values)
    return True


def _report(
    connection: Connection, cutover: Cutover, unfinished: Sequence[CutoverStep], now: datetime
) -> None:
    urgent = [step for step in unfinished if step.ends_at is not None]
    kinds = ", ".join(dict.fromkeys(step.kind for step in urgent))
    message = f"Cutover to {cutover.new_instance_id} has no deadline any more"
    if urgent:
        left = (min(step.ends_at for step in urgent if step.ends_at) - now).total_seconds()
        ends = f"ends in {left:.0f} s" if left > 0 else "has ended"
        message = (
            f"Cutover to {cutover.new_instance_id} is urgent: an instance that holds targets "
            f"{ends}; SEF no longer waits for other steps: {kinds}"
        )
    event = Event(
        "cutover_urgency",
        message,
        cutover.agent_id,
        severity="warning" if urgent else "info",
        details={"cutover_id": cutover.id, "epoch": cutover.epoch},
        incident_id=cutover.incident_id,
    )
    write_events(connection, [event], now)


def _from_column(value: dict[str, Any] | None) -> dict[str, NotRunning]:
    return {
        instance_id: NotRunning(datetime.fromisoformat(one["since"]), one["is_shown"])
        for instance_id, one in (value or {}).items()
    }


def _to_column(not_running: dict[str, NotRunning]) -> dict[str, Any]:
    return {
        instance_id: {"since": one.since.isoformat(), "is_shown": one.is_shown}
        for instance_id, one in not_running.items()
    }
