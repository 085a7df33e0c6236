"""Record the result of an attempt of a cutover step, and let late calls be repaired."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.context import Context
from sef.failover.cutover.events import describe_cut, report_status, report_step, step_name
from sef.failover.cutover.inspection import ONE_CALL
from sef.failover.cutover.plan import PATIENCE, throttled_until, times_out_at
from sef.failover.cutover.rows import (
    Cutover,
    CutoverStep,
    change_step,
    cutover_of_epoch,
    latency_of,
    open_cutover,
    refresh_cutover_status,
    steps_of,
)
from sef.failover.cutover.taken import Taken
from sef.failover.cutover.traffic_memory import TrafficBinding, remember
from sef.failover.cutover.wish import reopen
from sef.notifications.events import Severity
from sef.terms import CutoverStatus, StepKind, StepStatus

RETRY_DELAY = timedelta(seconds=1)
"""Delay before the next attempt of a pending step."""

MAX_RETRY_DELAY = timedelta(seconds=60)
"""Maximum delay between two attempts of a failed step, without the jitter."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an attempt of a step."""

    message: str
    status: StepStatus = StepStatus.PENDING
    """FAILED: AWS refuses the step, so waiting does not help. PENDING: retry it soon."""
    is_partial: bool = False
    """The first of two changes was made; the step is due again at once."""
    is_back: bool = False
    """The target was put back to the instance that serves."""
    caveat: str = ""
    """The point in which the result differs from what was asked for."""
    may_have_moved: bool = True
    """False: AWS refused the change, or it was not sent."""
    is_throttled: bool = False
    """AWS throttled the attempt: the step is only slow, until a deadline is near."""
    is_waiting: bool = False
    """The step waits on purpose, and does not time out."""
    binding: "TrafficBinding | None" = None
    """Ports or addresses of the target at the new primary, to be remembered."""
    is_change: bool = False
    """A change was made; False: there was nothing to do, or it failed."""


def is_current(connection: Connection, cutover: Cutover) -> bool:
    """Return True if a cutover belongs to the agent's last promotion; lock the agent."""
    agent = read_agent(connection, cutover.agent_id, lock=True)
    current = open_cutover(connection, cutover.agent_id)
    return agent.epoch == cutover.epoch and (current is None or current.id == cutover.id)


def read_again(connection: Connection, step: CutoverStep) -> CutoverStep:
    steps = steps_of(connection, step.cutover_id)
    return next(current for current in steps if current.position == step.position)


def record_result(
    connection: Connection, ctx: Context, cutover: Cutover, tried: CutoverStep, result: Result
) -> bool:
    """Record the result of an attempt; False if the cutover is no longer current."""
    now = ctx.clock()
    if not is_current(connection, cutover):
        if tried.kind in ONE_CALL and tried.attempts and result.may_have_moved:
            _look_again(connection, cutover, tried, now)
        return False
    current = open_cutover(connection, cutover.agent_id)
    step = read_again(connection, tried)
    if result.binding is not None:
        remember(connection, cutover.agent_id, [result.binding], now)
    if current is None or step.status in (StepStatus.DONE, StepStatus.SKIPPED):
        return True
    # Another worker may have claimed the step since; a step that was begun anew is another matter.
    is_same = tried.started_at is not None and step.started_at == tried.started_at
    if result.status is StepStatus.DONE and (is_same or step.version == tried.version):
        _finish_step(connection, current, step, result, now)
    elif step.version == tried.version:
        _retry_step(connection, current, step, result, now)
    status = refresh_cutover_status(connection, current, now)
    report_status(connection, current, status, now)
    return True


def _finish_step(
    connection: Connection, cutover: Cutover, step: CutoverStep, result: Result, now: datetime
) -> None:
    started_at = first_attempt(step, now)
    latency_ms = latency_of(started_at, now)
    change_step(
        connection,
        step,
        status=result.status,
        attempts=max(step.attempts, 1),
        started_at=started_at,
        finished_at=now,
        latency_ms=latency_ms,
        is_waiting=False,
        error=None,
        taken_from=None,
    )
    message = f"{step_name(step)}: {result.message}"
    severity: Severity = "info"
    cut = describe_cut(step, now) if result.is_change else None
    for caveat in filter(None, (result.caveat, cut)):
        message, severity = f"{message}; {caveat}", "warning"
    report_step(connection, cutover, step, message, now, severity, latency_ms=latency_ms)


def first_attempt(step: CutoverStep, now: datetime) -> datetime:
    """Return the time of the first attempt of a step that is tried now.

    A time in the future was written before the clock was set back: the time-out would not come.
    """
    return now if step.started_at is None else min(step.started_at, now)


def _retry_step(
    connection: Connection, cutover: Cutover, step: CutoverStep, result: Result, now: datetime
) -> None:
    started_at = first_attempt(step, now)
    error, taken = result.message, Taken.read(step.taken_from)
    if result.is_partial:
        status, delay = step.status, timedelta(0)
    else:
        times_out: datetime | None
        times_out = times_out_at(step.kind, started_at, step.ends_at, hurried=step.is_hurried)
        if result.is_throttled:
            times_out = throttled_until(started_at, step.ends_at)
        elif result.is_waiting:
            times_out = None
        is_late = times_out is not None and now >= times_out
        has_failed = is_late or StepStatus.FAILED in (step.status, result.status)
        status = StepStatus.FAILED if has_failed else StepStatus.PENDING
        delay = _retry_delay(status, step.attempts)
        if step.ends_at is None and not taken.goes_back:
            is_final = result.status is StepStatus.FAILED
            taken = taken.after_refusal(
                error, is_final=is_final, patience=PATIENCE[step.kind], now=now
            )
            if taken.goes_back:
                status, delay = StepStatus.FAILED, timedelta(0)
    if taken.refusal is not None and step.ends_at is None:
        error = taken.refusal
    change_step(
        connection,
        step,
        status=status,
        attempts=max(step.attempts, 1),
        started_at=started_at,
        not_before=now + delay,
        is_waiting=result.is_throttled or result.is_waiting,
        error=error,
        taken_from=taken.to_column(),
    )
    if status is StepStatus.FAILED and step.status is not StepStatus.FAILED:
        severity: Severity = "warning" if step.kind is StepKind.WEBHOOK_BEFORE else "error"
        message = f"{step_name(step)} failed: {error}"
        report_step(connection, cutover, step, message, now, severity)
    elif result.is_back:
        message = f"{step_name(step)}: {result.message}: {error}"
        report_step(connection, cutover, step, message, now, "warning")


def _look_again(connection: Connection, late: Cutover, step: CutoverStep, now: datetime) -> None:
    """Let the cutover of the present primary look at an address that a late call may have moved."""
    agent = read_agent(connection, late.agent_id)
    cutover = cutover_of_epoch(connection, agent.id, agent.epoch)
    if cutover is None or cutover.status is CutoverStatus.SUPERSEDED:
        return
    for own in steps_of(connection, cutover.id):
        if (own.kind, own.target) != (step.kind, step.target) or own.status is not StepStatus.DONE:
            continue
        if not cutover.is_open:
            cutover = reopen(connection, cutover, now)
        change_step(connection, own, status=StepStatus.PENDING, not_before=now, finished_at=None)
        message = (
            f"{step_name(step)}: a late call of the cutover to {late.new_instance_id} may have "
            f"moved it; SEF sees that {cutover.new_instance_id} has it"
        )
        report_step(connection, cutover, own, message, now, "warning")
        refresh_cutover_status(connection, cutover, now)


def _retry_delay(status: StepStatus, attempts: int) -> timedelta:
    if status is StepStatus.PENDING:
        return RETRY_DELAY
    # Jitter spreads the retries of a fleet that AWS throttles.
    return min(MAX_RETRY_DELAY, RETRY_DELAY * (5 << min(attempts, 4))) * random.uniform(0.8, 1.2)
