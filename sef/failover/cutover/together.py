"""Carry out the steps of several agents in one hosted zone or target group together.

Route 53 answers five requests a second for an account, and makes one change of a zone at a time. If
each of a hundred agents asked for its own record and changed it, most would be refused. So one
thread takes the lead for a zone, or for a kind of step in a target group: it asks AWS once, for all
agents whose step is due there, and changes all in one call. The other threads of the process leave
their steps to it. A worker is not alone, so each step is claimed and recorded as any other step: a
step of which the claim fails, because another worker has it, is left out of the call. The reasons
are in docs/decisions/0047-one-change-for-a-zone.md.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from sef.agents import read_agent
from sef.cloud.errors import CloudError
from sef.context import Context
from sef.db.tables import cutover_steps, cutovers
from sef.errors import Unavailable
from sef.failover.cutover.events import step_name
from sef.failover.cutover.group_round import GroupRound
from sef.failover.cutover.inspection import DueStep
from sef.failover.cutover.late_changes import undo_late_change
from sef.failover.cutover.plan import LONGEST_DELAY, is_ready
from sef.failover.cutover.record import Result, record_result
from sef.failover.cutover.rows import CutoverStep, open_cutover, steps_of
from sef.failover.cutover.run import (
    ATTEMPT_ERRORS,
    TRAFFIC_KINDS,
    advance_alone,
    claim_step,
    due_work,
    traffic_step,
    unsuccessful,
)
from sef.failover.cutover.wish import difference
from sef.failover.cutover.zone_round import ZoneRound
from sef.notifications.failures import report_failure
from sef.terms import StepKind, StepStatus

MOST_TOGETHER = 50
"""Maximum number of steps in one round: two changes each fill a change batch of Route 53."""

Key = tuple[StepKind, str]
"""The kind of a step, and the zone or group that its target belongs to."""


def advance_cutover(ctx: Context, agent_id: str) -> str | None:
    """Do the due work of an agent's cutover; return the result, or None when nothing is due.

    Errors of AWS are recorded with the step, which is retried; they are not raised.
    """
    due = ctx.database.read(due_work, ctx, agent_id)
    if not isinstance(due, DueStep) or due.step.kind not in TRAFFIC_KINDS:
        return advance_alone(ctx, agent_id, due)
    with ctx.leads.lead(_key(due.step)) as is_leader:
        # Without the lead, the step stays due: its leader carries it out, or the next pass does.
        return _advance(ctx, due) if is_leader else None


def _key(step: CutoverStep) -> Key:
    return step.kind, step.target["zone_id" if step.kind is StepKind.DNS else "arn"]


def _advance(ctx: Context, leader: DueStep) -> str:
    """Try the steps of the leader and of all agents that have a step due in the same place."""
    dues = [leader, *ctx.database.read(_companions, ctx, leader)]
    sentences: dict[str, str] = {}
    round_: ZoneRound | GroupRound
    kind, place = _key(leader.step)
    try:
        if kind is StepKind.DNS:
            round_ = ZoneRound(ctx, place, dues)
        else:
            round_ = GroupRound(ctx, kind, place, dues)
    except CloudError as error:
        for due in dues:
            sentence = _record(ctx, due, due.step, unsuccessful(error.again()))
            sentences[due.cutover.agent_id] = sentence
        return sentences[leader.cutover.agent_id]
    claimed: dict[str, CutoverStep] = {}
    for due in dues:
        agent_id = due.cutover.agent_id
        try:
            result = round_.inspect(due)
        except ATTEMPT_ERRORS as error:
            result = unsuccessful(error)
        except Exception as error:
            if due is leader or isinstance(error, Unavailable):
                raise
            report_failure(ctx, agent_id, "advance_cutover", error)
            continue
        if result is not None:
            sentences[agent_id] = _record(ctx, due, due.step, result)
            continue
        step = _claim(ctx, due)
        if step is None:
            sentences[agent_id] = (
                f"{step_name(due.step)} was not claimed: "
                "the cutover is superseded, or another worker has the step"
            )
        else:
            claimed[agent_id] = step
    to_make = [due for due in dues if due.cutover.agent_id in claimed]
    made = round_.make(to_make) if to_make else []
    for due, result in zip(to_make, made, strict=True):
        agent_id = due.cutover.agent_id
        sentences[agent_id] = _record(ctx, due, claimed[agent_id], result)
    return sentences[leader.cutover.agent_id]


def _companions(connection: Connection, ctx: Context, leader: DueStep) -> Sequence[DueStep]:
    """Return the due steps of other agents that belong to the leader's round, urgent ones first."""
    now = ctx.clock()
    cutover, step = cutovers.c, cutover_steps.c
    rows = connection.execute(
        select(cutover.open_agent_id, step.position, step.target)
        .join(cutover_steps, step.cutover_id == cutover.id)
        .where(cutover.open_agent_id.is_not(None))
        .where(cutover.open_agent_id != leader.cutover.agent_id)
        .where((cutover.due_at <= now) | (cutover.due_at > now + LONGEST_DELAY))
        .where(step.kind == leader.step.kind)
        .where(step.status.in_([StepStatus.PENDING, StepStatus.FAILED]))
        .order_by(cutover.deadline.is_(None), cutover.deadline, cutover.id)
    ).all()
    _, place = _key(leader.step)
    found: list[DueStep] = []
    for row in rows:
        if len(found) + 1 >= MOST_TOGETHER:
            break
        if place in (row.target.get("zone_id"), row.target.get("arn")):
            try:
                due = _due_at(connection, ctx, row.open_agent_id, row.position)
            except (ValueError, LookupError, TypeError):
                continue  # a row that cannot be read; the agent's own pass reports it
            found += [due] if due is not None else []
    return found


def _due_at(connection: Connection, ctx: Context, agent_id: str, position: int) -> DueStep | None:
    """Return a step of an agent's open cutover, if it may be tried now."""
    cutover = open_cutover(connection, agent_id)
    if cutover is None:
        return None
    steps = steps_of(connection, cutover.id)
    agent = read_agent(connection, agent_id)
    if agent.epoch != cutover.epoch or difference(steps, agent.cutover):
        return None
    step = next((one for one in steps if one.position == position), None)
    if step is None or not is_ready([one.state for one in steps], step.state, ctx.clock()):
        return None
    return traffic_step(connection, cutover, step)


def _claim(ctx: Context, due: DueStep) -> CutoverStep | None:
    try:
        return ctx.database.write(claim_step, ctx, due.cutover, due.step)
    except Unavailable:
        raise
    except Exception as error:
        # The row of one agent must not stop the other agents.
        report_failure(ctx, due.cutover.agent_id, "advance_cutover", error)
        return None


def _record(ctx: Context, due: DueStep, tried: CutoverStep, result: Result) -> str:
    """Record the result of an attempt; undo its change if it came too late."""
    try:
        is_current = ctx.database.write(record_result, ctx, due.cutover, tried, result)
        if not is_current and tried is not due.step:
            undo_late_change(ctx, due)
    except Unavailable:
        raise
    except Exception as error:
        report_failure(ctx, due.cutover.agent_id, "advance_cutover", error)
        return f"{step_name(due.step)}: {error}"
    return result.message
