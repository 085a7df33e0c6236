"""Making a promotion real for the service: what belongs to the agent follows its new primary.

One step at a time: look how things are, make sure in a transaction that the promotion still counts,
move from what was seen, write down what came of it. In this order a worker that was frozen anywhere
in between changes nothing when it goes on after another promotion: either it is told so by the
rows, or AWS refuses, since what it compares with is of before. What AWS cannot compare, the targets
of a target group, is put right again.
"""

import logging
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.clock import iso
from sef.cloud.attachments import RACED, Impossible, NotReady, PlannedChange
from sef.cloud.errors import CloudError, Remedy
from sef.context import Context
from sef.failover.cutover.events import NO_LONGER_WANTED, found_done, report_status, step_name
from sef.failover.cutover.plan import PATIENCE, is_wanted, next_step_of, times_out_at
from sef.failover.cutover.rows import (
    Cutover,
    CutoverStep,
    change_step,
    former_instances,
    open_cutover,
    refresh_cutover_status,
    steps_of,
)
from sef.notifications.events import Event, Severity, write_events
from sef.notifications.outbound import PermanentHttpError, TransientHttpError
from sef.terms import StepKind, StepStatus

log = logging.getLogger("sef")

CLAIM_DURATION = timedelta(seconds=4)
"""How long others leave a step alone that a worker has taken up."""

LOOK_AGAIN = timedelta(seconds=1)
LONGEST_RETRY_DELAY = timedelta(seconds=60)
"""Between two attempts of a step that has failed."""

TRAFFIC_KINDS = (StepKind.REGISTER, StepKind.DEREGISTER)


@dataclass(frozen=True, slots=True)
class _Result:
    said: str
    status: StepStatus = StepStatus.PENDING
    """FAILED: it was refused, so there is nothing to wait for."""
    goes_on: bool = False
    """Not done, but further: to be looked at again at once."""


def advance_cutover(ctx: Context, agent_id: str) -> str | None:
    """Try the next step of an agent's cutover; None when there is none to try now.

    AWS that cannot be reached or refuses is no error: the step is tried again.
    """
    found = ctx.database.read(_next_step, ctx, agent_id)
    if found is None:
        return None
    cutover, step, wanted, former = found
    claimed: CutoverStep | None = None
    if not wanted:
        result = _Result(NO_LONGER_WANTED, StepStatus.SKIPPED)
    else:
        try:
            move = _inspect(ctx, cutover, step, former)
            if move is None:
                result = _Result(found_done(cutover, step), StepStatus.DONE)
            else:
                claimed = ctx.database.write(_claim, ctx, cutover, step)
                if claimed is None:
                    return f"{step_name(step)} is no longer to be done, or somebody else is at it"
                move.make()
                status = StepStatus.DONE if move.is_all else StepStatus.PENDING
                result = _Result(move.said, status, goes_on=not move.is_all)
        except (NotReady, TransientHttpError) as error:
            result = _Result(str(error))
        except (Impossible, PermanentHttpError) as error:
            result = _Result(str(error), StepStatus.FAILED)
        except CloudError as error:
            result = _Result(str(error), _status_after(error))
    counts = ctx.database.write(_record_result, ctx, cutover, claimed or step, result)
    if not counts and claimed is not None and step.kind in TRAFFIC_KINDS:
        _undo_late_change(ctx, cutover, step, former)
    return result.said


def _next_step(
    connection: Connection, ctx: Context, agent_id: str
) -> tuple[Cutover, CutoverStep, bool, set[str]] | None:
    now = ctx.clock()
    cutover = open_cutover(connection, agent_id)
    if cutover is None:
        return None
    steps = steps_of(connection, cutover.id)
    chosen = next_step_of([step.state for step in steps], cutover.deadline, now)
    if chosen is None:
        return None
    step = next(s for s in steps if s.position == chosen.position)
    agent = read_agent(connection, agent_id)
    former = former_instances(connection, agent_id) - {cutover.new_instance_id}
    return cutover, step, is_wanted(step.kind, step.target, agent.cutover), former


def _inspect(
    ctx: Context, cutover: Cutover, step: CutoverStep, former: set[str]
) -> PlannedChange | None:
    new, target = cutover.new_instance_id, step.target
    moves, traffic = ctx.attachments, ctx.traffic
    match step.kind:
        case StepKind.RUNNING:
            moves.running(new)
            return None
        case StepKind.ELASTIC_IP:
            return moves.elastic_ip(target, new)
        case StepKind.PRIVATE_IP:
            return moves.private_ip(target, new)
        case StepKind.NETWORK_INTERFACE:
            return moves.network_interface(target["id"], target["device_index"], new)
        case StepKind.VOLUME:
            return moves.volume(target["id"], target["device"], new)
        case StepKind.REGISTER:
            return traffic.registered(target["arn"], target.get("port"), new)
        case StepKind.HEALTHY:
            traffic.healthy(target["arn"], target.get("port"), new)
            return None
        case StepKind.DEREGISTER:
            return traffic.deregistered(target["arn"], former)
        case StepKind.DNS:
            return _inspect_record(ctx, target, new)
        case StepKind.WEBHOOK_BEFORE | StepKind.WEBHOOK_AFTER:
            return _webhook(ctx, cutover, step)


def _inspect_record(ctx: Context, target: dict[str, Any], instance_id: str) -> PlannedChange | None:
    place = ctx.attachments.place(instance_id)
    address = place.public_ip if target["address"] == "public" else place.private_ip
    if address is None:
        raise Impossible(f"{instance_id} has no public address for {target['name']}")
    return ctx.traffic.record(
        target["zone_id"], target["name"], target["type"], address, target.get("ttl")
    )


def _webhook(ctx: Context, cutover: Cutover, step: CutoverStep) -> PlannedChange:
    steps = ctx.database.read(steps_of, cutover.id)
    body = {
        "event": f"cutover.{step.kind.removeprefix('webhook-')}",
        "agent_id": cutover.agent_id,
        "incident_id": cutover.incident_id,
        "epoch": cutover.epoch,
        "old_instance_id": cutover.old_instance_id,
        "new_instance_id": cutover.new_instance_id,
        "pool_id": cutover.pool_id,
        "deadline": iso(cutover.deadline),
        "steps": [
            {"kind": s.kind, "target": s.target, "status": s.status, "error": s.error}
            for s in steps
            if not s.kind.startswith("webhook")
        ],
    }
    key = f"{cutover.id}-{step.kind.removeprefix('webhook-')}"

    def make() -> None:
        ctx.http.post_json(
            step.target,
            body,
            timeout=min(PATIENCE[step.kind].total_seconds(), 10.0),
            headers={"Idempotency-Key": key},
        )

    return PlannedChange("it was sent", make)


def _claim(
    connection: Connection, ctx: Context, cutover: Cutover, told: CutoverStep
) -> CutoverStep | None:
    """Take a step up, unless the promotion does not count any more or another has it.

    What is to be moved was looked at before: so whoever has promoted since then, and looks
    after that, is either seen here or refuses us by what he has moved.
    """
    now = ctx.clock()
    if not _is_current(connection, cutover):
        return None
    step = _read_step(connection, told)
    if step.version != told.version:
        return None
    change_step(
        connection,
        step,
        attempts=step.attempts + 1,
        started_at=step.started_at or now,
        not_before=now + CLAIM_DURATION,
    )
    return _read_step(connection, told)


def _record_result(
    connection: Connection, ctx: Context, cutover: Cutover, told: CutoverStep, result: _Result
) -> bool:
    """Write down what an attempt came to; False when the promotion does not count any more."""
    now = ctx.clock()
    if not _is_current(connection, cutover):
        return False
    current = open_cutover(connection, cutover.agent_id)
    step = _read_step(connection, told)
    is_over = step.status in (StepStatus.DONE, StepStatus.SKIPPED)
    if current is None or is_over:
        return True
    if result.status in (StepStatus.DONE, StepStatus.SKIPPED):
        _finish_step(connection, current, step, result, now)
    elif step.version == told.version:
        _postpone_step(connection, current, step, result, now)
    was = current.status
    current = open_cutover(connection, cutover.agent_id) or current
    status = refresh_cutover_status(connection, current, now)
    if status is not was:
        report_status(connection, current, status, now)
    return True


def _finish_step(
    connection: Connection,
    cutover: Cutover,
    step: CutoverStep,
    result: _Result,
    now: datetime,
) -> None:
    begun = step.started_at or now
    took = round((now - begun) / timedelta(milliseconds=1))
    change_step(
        connection,
        step,
        status=result.status,
        attempts=max(step.attempts, 1),
        started_at=begun,
        finished_at=now,
        latency_ms=took,
        error=result.said if result.status is StepStatus.SKIPPED else None,
    )
    details = {
        "cutover_id": cutover.id,
        "kind": step.kind,
        "target": step.target,
        "latency_ms": took,
    }
    event = Event(
        "cutover_step",
        f"{step_name(step)} is {result.status}: {result.said}"
        if result.status is StepStatus.SKIPPED
        else f"{step_name(step)}: {result.said}",
        cutover.agent_id,
        details=details,
        incident_id=cutover.incident_id,
    )
    write_events(connection, [event], now)


def _postpone_step(
    connection: Connection,
    cutover: Cutover,
    step: CutoverStep,
    result: _Result,
    now: datetime,
) -> None:
    begun = step.started_at or now
    if result.goes_on:
        status, pause = step.status, timedelta(0)
    else:
        patience = times_out_at(step.kind, begun, cutover.deadline, hurried=cutover.is_hurried)
        was_in_vain = StepStatus.FAILED in (step.status, result.status)
        status = StepStatus.FAILED if was_in_vain or now >= patience else StepStatus.PENDING
        pause = _pause(status, step.attempts)
    change_step(
        connection,
        step,
        status=status,
        attempts=max(step.attempts, 1),
        started_at=begun,
        not_before=now + pause,
        error=result.said,
    )
    if status is StepStatus.FAILED and step.status is not StepStatus.FAILED:
        severity: Severity = "warning" if step.kind is StepKind.WEBHOOK_BEFORE else "error"
        details = {"cutover_id": cutover.id, "kind": step.kind, "target": step.target}
        event = Event(
            "cutover_step",
            f"{step_name(step)} failed: {result.said}",
            cutover.agent_id,
            severity,
            details,
            cutover.incident_id,
        )
        write_events(connection, [event], now)


def _undo_late_change(ctx: Context, cutover: Cutover, step: CutoverStep, former: set[str]) -> None:
    """A target group was changed for a promotion that did not count any more by then."""
    agent = ctx.database.read(read_agent, cutover.agent_id)
    primary, target = agent.instance_id, step.target
    move = None
    try:
        if step.kind is StepKind.REGISTER and primary != cutover.new_instance_id:
            move = ctx.traffic.deregistered(target["arn"], {cutover.new_instance_id})
        elif step.kind is StepKind.DEREGISTER and primary is not None and primary in former:
            move = ctx.traffic.registered(target["arn"], target.get("port"), primary)
        if move is None:
            return
        move.make()
        said, severity = f"put right after a late {step.kind}: {move.said}", "warning"
    except CloudError as error:
        said, severity = f"a late {step.kind} cannot be put right: {error}", "error"
    told: Severity = "error" if severity == "error" else "warning"
    event = Event(
        "cutover_step", said, agent.id, told, {"cutover_id": cutover.id, "kind": step.kind}
    )
    ctx.database.write(write_events, [event], ctx.clock())


def _is_current(connection: Connection, cutover: Cutover) -> bool:
    """Whether a cutover is still that of the agent's last promotion; locks the agent."""
    agent = read_agent(connection, cutover.agent_id, lock=True)
    current = open_cutover(connection, cutover.agent_id)
    return agent.epoch == cutover.epoch and (current is None or current.id == cutover.id)


def _pause(status: StepStatus, attempts: int) -> timedelta:
    if status is StepStatus.PENDING:
        return LOOK_AGAIN
    # Jitter, so that a throttled fleet does not come back all at once.
    return min(LONGEST_RETRY_DELAY, LOOK_AGAIN * (5 << min(attempts, 4))) * random.uniform(0.8, 1.2)


def _read_step(connection: Connection, told: CutoverStep) -> CutoverStep:
    steps = steps_of(connection, told.cutover_id)
    return next(step for step in steps if step.position == told.position)


def _status_after(error: CloudError) -> StepStatus:
    is_passing = error.code in RACED or error.remedy is not Remedy.OPERATOR
    return StepStatus.PENDING if is_passing else StepStatus.FAILED
