"""Carry out a cutover: one step of it at a time.

The steps of several agents in one hosted zone or target group are carried out together, with the
same transactions (`sef.failover.cutover.together`).

1. Select the due step (`plan.next_step_of`). If the steps are no longer those of the agent's
   targets, change them first (`wish`). If none is due, look at the former primaries (`look`).
2. Inspect the target in AWS. If the new primary already has it, the step is done.
3. Claim the step in a transaction, which fails if the agent has got another primary, or if another
   worker has the step.
4. Move the target. The call names the state that was inspected, so AWS refuses it if the target has
   changed since.
5. Record the result in a transaction: done, skipped, or the time of the next attempt.

The order protects against a worker that freezes between two steps and continues after another
promotion: either the claim fails, or AWS refuses the move. The reasons are in
docs/decisions/0025-cutovers-compare-and-swap.md.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.cloud.attachments import RACED, Impossible, NotReady, PlannedChange, Waits
from sef.cloud.errors import CloudError, Remedy
from sef.context import Context
from sef.failover.cutover.events import (
    describe_cut,
    describe_nothing_to_do,
    report_status,
    report_step,
    step_name,
)
from sef.failover.cutover.formers import formers_of
from sef.failover.cutover.inspection import inspect_target
from sef.failover.cutover.look import look_at_formers
from sef.failover.cutover.plan import next_step_of, throttled_until, times_out_at
from sef.failover.cutover.rows import (
    Cutover,
    CutoverStep,
    change_step,
    latency_of,
    open_cutover,
    refresh_cutover_status,
    steps_of,
)
from sef.failover.cutover.traffic_memory import Binding, remember
from sef.failover.cutover.wish import difference, follow_wish
from sef.notifications.events import Severity
from sef.notifications.outbound import PermanentHttpError, TransientHttpError
from sef.terms import StepKind, StepStatus

CLAIM_DURATION = timedelta(seconds=4)
"""Time for which other workers do not try a step that a worker has claimed."""

RETRY_DELAY = timedelta(seconds=1)
"""Delay before the next attempt of a pending step."""

MAX_RETRY_DELAY = timedelta(seconds=60)
"""Maximum delay between two attempts of a failed step, without the jitter."""

TRAFFIC_KINDS = (StepKind.REGISTER, StepKind.HEALTHY, StepKind.DEREGISTER, StepKind.DNS)
"""Steps that the steps of other agents join (`sef.failover.cutover.together`)."""

ATTEMPT_ERRORS = (NotReady, Impossible, CloudError, TransientHttpError, PermanentHttpError)
"""Errors that are recorded with the step."""


class Todo(Enum):
    """Work on a cutover in which no step is tried."""

    FOLLOW = "change the steps to those of the agent's targets"
    LOOK = "look at the former primaries"


@dataclass(frozen=True, slots=True)
class DueStep:
    """The step of a cutover to try now."""

    cutover: Cutover
    step: CutoverStep
    former: set[str]
    """The former primaries of the agent, if the step deregisters them."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an attempt of a step."""

    message: str
    status: StepStatus = StepStatus.PENDING
    """FAILED: AWS refuses the step, so waiting does not help. PENDING: retry it soon."""
    is_partial: bool = False
    """The first of two changes was made; the step is due again at once."""
    is_throttled: bool = False
    """AWS throttled the attempt: the step is only slow, until a deadline is near."""
    is_waiting: bool = False
    """The step waits on purpose, and does not time out."""
    binding: "Binding | None" = None
    """Ports or addresses of the target at the new primary, to be remembered."""
    is_change: bool = False
    """A change was made; False: there was nothing to do, or it failed."""


def advance_alone(ctx: Context, agent_id: str, due: DueStep | Todo | None) -> str | None:
    """Do the due work of an agent's cutover; return the result, or None when nothing is due.

    Errors of AWS are recorded with the step, which is retried; they are not raised.
    """
    if due is Todo.FOLLOW:
        followed = ctx.database.write(_follow, ctx, agent_id)
        return "the cutover follows the changed targets" if followed else None
    if due is Todo.LOOK:
        return look_at_formers(ctx, agent_id)
    if not isinstance(due, DueStep):
        return None
    claimed: CutoverStep | None = None
    outcome = _inspect(ctx, due)
    if isinstance(outcome, PlannedChange):
        claimed = ctx.database.write(claim_step, ctx, due.cutover, due.step)
        if claimed is None:
            return (
                f"{step_name(due.step)} was not claimed: "
                "the cutover is superseded, or another worker has the step"
            )
        outcome = _move(outcome)
    ctx.database.write(record_result, ctx, due.cutover, claimed or due.step, outcome)
    return outcome.message


def due_work(connection: Connection, ctx: Context, agent_id: str) -> DueStep | Todo | None:
    """Return the due work of an agent's cutover; None if no cutover is open."""
    cutover = open_cutover(connection, agent_id)
    if cutover is None:
        return None
    steps = steps_of(connection, cutover.id)
    agent = read_agent(connection, agent_id)
    if agent.epoch == cutover.epoch and difference(steps, agent.cutover):
        return Todo.FOLLOW
    chosen = next_step_of([step.state for step in steps], ctx.clock())
    if chosen is None:
        return Todo.LOOK
    step = next(step for step in steps if step.position == chosen.position)
    return due_step(connection, cutover, step)


def due_step(connection: Connection, cutover: Cutover, step: CutoverStep) -> DueStep:
    """Return a step with the former primaries, if its attempt needs them."""
    former: set[str] = set()
    if step.kind in TRAFFIC_KINDS:
        formers = formers_of(connection, cutover.agent_id, cutover.new_instance_id)
        former = {one.instance_id for one in formers}
    return DueStep(cutover, step, former)


def _follow(connection: Connection, ctx: Context, agent_id: str) -> bool:
    """Change the steps of the open cutover to those of the agent's targets."""
    agent = read_agent(connection, agent_id, lock=True)
    cutover = open_cutover(connection, agent_id)
    if cutover is None or agent.epoch != cutover.epoch:
        return False
    return follow_wish(connection, cutover, agent.cutover, ctx.clock())


def _inspect(ctx: Context, due: DueStep) -> PlannedChange | Result:
    try:
        change = inspect_target(ctx, due.cutover, due.step)
    except ATTEMPT_ERRORS as error:
        return unsuccessful(error)
    return change or Result(describe_nothing_to_do(due.cutover, due.step), StepStatus.DONE)


def _move(change: PlannedChange) -> Result:
    try:
        change.make()
    except ATTEMPT_ERRORS as error:
        return unsuccessful(error)
    status = StepStatus.DONE if change.is_all else StepStatus.PENDING
    return Result(change.description, status, is_partial=not change.is_all, is_change=True)


def unsuccessful(error: Exception) -> Result:
    """Return the result of an attempt that ended with one of `ATTEMPT_ERRORS`."""
    is_throttled = False
    match error:
        case NotReady() | TransientHttpError():
            is_final = False
        case CloudError():
            is_throttled = error.is_throttled
            is_final = error.code not in RACED and error.remedy is Remedy.OPERATOR
        case _:
            is_final = True
    return Result(
        str(error),
        StepStatus.FAILED if is_final else StepStatus.PENDING,
        is_throttled=is_throttled,
        is_waiting=isinstance(error, Waits),
    )


def claim_step(
    connection: Connection, ctx: Context, cutover: Cutover, inspected: CutoverStep
) -> CutoverStep | None:
    """Claim a step; None if the cutover is no longer current, or if another worker has the step.

    The target was inspected before. A worker that promotes another instance afterwards either
    commits before this transaction, which then fails, or moves the target itself: then AWS refuses
    the move that was planned here.
    """
    if not _is_current(connection, cutover):
        return None
    step = _read_again(connection, inspected)
    if step.version != inspected.version:
        return None
    now = ctx.clock()
    change_step(
        connection,
        step,
        attempts=step.attempts + 1,
        started_at=_first_attempt(step, now),
        not_before=now + CLAIM_DURATION,
    )
    return _read_again(connection, inspected)


def record_result(
    connection: Connection, ctx: Context, cutover: Cutover, tried: CutoverStep, result: Result
) -> bool:
    """Record the result of an attempt; False if the cutover is no longer current."""
    now = ctx.clock()
    if not _is_current(connection, cutover):
        return False
    current = open_cutover(connection, cutover.agent_id)
    step = _read_again(connection, tried)
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
    started_at = _first_attempt(step, now)
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
    )
    message = f"{step_name(step)}: {result.message}"
    cut = describe_cut(step, now) if result.is_change else None
    severity: Severity = "info" if cut is None else "warning"
    message = message if cut is None else f"{message}; {cut}"
    report_step(connection, cutover, step, message, now, severity, latency_ms=latency_ms)


def _first_attempt(step: CutoverStep, now: datetime) -> datetime:
    """Return the time of the first attempt of a step that is tried now.

    A time in the future was written before the clock was set back: the time-out would not come.
    """
    return now if step.started_at is None else min(step.started_at, now)


def _retry_step(
    connection: Connection, cutover: Cutover, step: CutoverStep, result: Result, now: datetime
) -> None:
    started_at = _first_attempt(step, now)
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
    change_step(
        connection,
        step,
        status=status,
        attempts=max(step.attempts, 1),
        started_at=started_at,
        not_before=now + delay,
        is_waiting=result.is_throttled or result.is_waiting,
        error=result.message,
    )
    if status is StepStatus.FAILED and step.status is not StepStatus.FAILED:
        severity: Severity = "warning" if step.kind is StepKind.WEBHOOK_BEFORE else "error"
        message = f"{step_name(step)} failed: {result.message}"
        report_step(connection, cutover, step, message, now, severity)


def _is_current(connection: Connection, cutover: Cutover) -> bool:
    """Return True if a cutover belongs to the agent's last promotion; lock the agent."""
    agent = read_agent(connection, cutover.agent_id, lock=True)
    current = open_cutover(connection, cutover.agent_id)
    return agent.epoch == cutover.epoch and (current is None or current.id == cutover.id)


def _retry_delay(status: StepStatus, attempts: int) -> timedelta:
    if status is StepStatus.PENDING:
        return RETRY_DELAY
    # Jitter spreads the retries of a fleet that AWS throttles.
    return min(MAX_RETRY_DELAY, RETRY_DELAY * (5 << min(attempts, 4))) * random.uniform(0.8, 1.2)


def _read_again(connection: Connection, step: CutoverStep) -> CutoverStep:
    steps = steps_of(connection, step.cutover_id)
    return next(current for current in steps if current.position == step.position)
