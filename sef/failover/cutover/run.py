"""Carry out a cutover: one step of it at a time.

The steps of several agents in one hosted zone or target group are carried out together, with the
same transactions (`sef.failover.cutover.together`).

1. Select the due step (`plan.next_step_of`). If the steps are no longer those of the agent's
   targets, change them first (`wish`). If none is due, look at the former primaries (`look`).
2. Inspect the target in AWS. If the new primary already has it, the step is done.
3. Claim the step in a transaction, which fails if the agent has got another primary, or if another
   worker has the step.
4. Move the target. Just before a call to EC2 is sent, check again that the agent has no other
   primary. The call names the state that was inspected, so AWS refuses it if the target has changed
   since; only an address that another instance has is taken from any holder.
5. Record the result in a transaction: done, skipped, or the time of the next attempt.
6. If the agent got another primary between 3 and 5, repair what the late call may have changed:
   undo a change to a target group; let the later cutover look at its address again.

The order protects against a worker that freezes between two steps and continues after another
promotion: the claim fails, the call is not sent, AWS refuses the move, or it is repaired. The
reasons are in docs/decisions/0025-cutovers-compare-and-swap.md and
docs/decisions/0045-one-call-moves.md.
"""

from collections.abc import Callable, Collection
from datetime import timedelta
from enum import Enum
from typing import Any

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.cloud.attachments import RACED, Impossible, NotReady, PlannedChange, Waits
from sef.cloud.errors import CloudError, Remedy
from sef.context import Context
from sef.failover.cutover.bindings import KINDS, remember
from sef.failover.cutover.events import (
    describe_nothing_to_do,
    step_name,
)
from sef.failover.cutover.formers import formers_of
from sef.failover.cutover.inspection import (
    DETACHED,
    DueStep,
    GoingBack,
    inspect_target,
)
from sef.failover.cutover.look import look_at_formers
from sef.failover.cutover.plan import next_step_of
from sef.failover.cutover.record import Result, first_attempt, is_current, read_again, record_result
from sef.failover.cutover.rows import (
    Cutover,
    CutoverStep,
    bindings_of,
    change_step,
    open_cutover,
    states_of,
    steps_of,
)
from sef.failover.cutover.taken import Taken
from sef.failover.cutover.wish import difference, follow_wish
from sef.notifications.outbound import PermanentHttpError, TransientHttpError
from sef.terms import StepKind, StepStatus

CLAIM_DURATION = timedelta(seconds=4)
"""Time for which other workers do not try a step that a worker has claimed."""

TRAFFIC_KINDS = (StepKind.REGISTER, StepKind.HEALTHY, StepKind.DEREGISTER, StepKind.DNS)
"""Steps that the steps of other agents join (`sef.failover.cutover.together`)."""


class Superseded(Exception):
    """The agent got another primary just before a call left: it was not sent.

    Attributes:
        is_sent: an earlier sending of the call had no answer.
    """

    def __init__(self, *, is_sent: bool) -> None:
        super().__init__("the agent has got another primary, so the call was not sent")
        self.is_sent = is_sent


ATTEMPT_ERRORS = (
    Superseded,
    NotReady,
    Impossible,
    CloudError,
    TransientHttpError,
    PermanentHttpError,
)
"""Errors that are recorded with the step."""


class Todo(Enum):
    """Work on a cutover in which no step is tried."""

    FOLLOW = "change the steps to those of the agent's targets"
    LOOK = "look at the former primaries"


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
    if not isinstance(outcome, Result):
        claimed = ctx.database.write(claim_step, ctx, due.cutover, due.step, outcome)
        if claimed is None:
            return (
                f"{step_name(due.step)} was not claimed: "
                "the cutover is superseded, or another worker has the step"
            )
        outcome = _move(ctx, due.cutover, outcome)
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
    states = states_of(connection, cutover, steps)
    chosen = next_step_of(states, ctx.clock())
    if chosen is None:
        return Todo.LOOK
    step = next(step for step in steps if step.position == chosen.position)
    if step.kind in TRAFFIC_KINDS:
        return traffic_step(connection, cutover, step)
    bindings = bindings_of(connection, agent_id)
    return DueStep(cutover, step, set(), list(zip(steps, states, strict=True)), bindings)


def traffic_step(connection: Connection, cutover: Cutover, step: CutoverStep) -> DueStep:
    """Return a step of a target group or a record with the former primaries of the agent."""
    formers = formers_of(connection, cutover.agent_id, cutover.new_instance_id)
    return DueStep(cutover, step, {one.instance_id for one in formers})


def _follow(connection: Connection, ctx: Context, agent_id: str) -> bool:
    """Change the steps of the open cutover to those of the agent's targets."""
    agent = read_agent(connection, agent_id, lock=True)
    cutover = open_cutover(connection, agent_id)
    if cutover is None or agent.epoch != cutover.epoch:
        return False
    return follow_wish(connection, cutover, agent.cutover, ctx.clock())


def _inspect(ctx: Context, due: DueStep) -> PlannedChange | GoingBack | Result:
    try:
        change = inspect_target(ctx, due)
    except ATTEMPT_ERRORS as error:
        return unsuccessful(error)
    if change is None and due.step.kind is StepKind.RUNNING:
        agent = ctx.database.read(read_agent, due.cutover.agent_id)
        remember(ctx, agent, trusted=_trusted(due), formers_only=True)
    return change or Result(describe_nothing_to_do(due.cutover, due.step), StepStatus.DONE)


def _trusted(due: DueStep) -> Collection[str]:
    """Return the kinds of targets whose stored bindings have to do, for the time that is left.

    The device of a volume is named with the target, so it can wait in any emergency.
    """
    if due.step.is_hurried:
        return KINDS
    return () if due.is_calm else ("volume",)


def _only_current(ctx: Context, cutover: Cutover) -> Callable[[], None]:
    """Return a check that raises Superseded if the agent has got another primary since the claim.

    boto3 runs it again before it repeats a call: then the first one may have moved the target.
    """
    passed: list[bool] = []

    def check() -> None:
        if ctx.database.read(read_agent, cutover.agent_id).epoch != cutover.epoch:
            raise Superseded(is_sent=bool(passed))
        passed.append(True)

    return check


def _move(ctx: Context, cutover: Cutover, planned: PlannedChange | GoingBack) -> Result:
    change = planned.change if isinstance(planned, GoingBack) else planned
    try:
        with ctx.attachments.sent_only_if(_only_current(ctx, cutover)):
            change.make()
    except ATTEMPT_ERRORS as error:
        return unsuccessful(error)
    status = StepStatus.DONE if change.is_all else StepStatus.PENDING
    return Result(
        change.description,
        status,
        is_partial=not change.is_all,
        is_back=isinstance(planned, GoingBack),
        is_change=True,
        caveat=change.caveat,
    )


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
    may_have_moved = (isinstance(error, CloudError) and error.remedy is Remedy.WAIT) or (
        isinstance(error, Superseded) and error.is_sent
    )
    status = StepStatus.FAILED if is_final else StepStatus.PENDING
    return Result(
        str(error),
        status,
        may_have_moved=may_have_moved,
        is_throttled=is_throttled,
        is_waiting=isinstance(error, Waits),
    )


def claim_step(
    connection: Connection,
    ctx: Context,
    cutover: Cutover,
    inspected: CutoverStep,
    planned: PlannedChange | GoingBack | None = None,
) -> CutoverStep | None:
    """Claim a step; None if the cutover is no longer current, or if another worker has the step.

    The target was inspected before. A worker that promotes another instance afterwards either
    commits before this transaction, which then fails, or moves the target itself: then AWS refuses
    the move that was planned here, or its result is repaired.

    Args:
        planned: the change of an interface or a volume; its holder is committed before the call.
    """
    if not is_current(connection, cutover):
        return None
    step = read_again(connection, inspected)
    if step.version != inspected.version:
        return None
    now = ctx.clock()
    values: dict[str, Any] = {}
    if step.kind in DETACHED and planned is not None:
        taken = Taken.read(step.taken_from)
        if isinstance(planned, GoingBack):
            taken = taken.after_claim(planned.change, planned.seen, now)
        else:
            taken = taken.after_claim(planned, None, now)
        values["taken_from"] = taken.to_column()
    change_step(
        connection,
        step,
        attempts=step.attempts + 1,
        started_at=first_attempt(step, now),
        not_before=now + CLAIM_DURATION,
        **values,
    )
    return read_again(connection, inspected)
