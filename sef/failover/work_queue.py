"""Reconcile all agents that have unfinished work: select them, order them, put them in lanes.

One pass:

1. Report storms: pools in which AWS interrupts several agents at once.
2. Read the agents with work that is due, the most urgent first (`agents_with_work`).
3. Reconcile these agents in threads, in three lanes that do not wait for each other (`Lane`).
4. While a reconciliation still runs, because calls to EC2 are slow, read the agents that have
   become due meanwhile, and reconcile them too. Each of these reads begins a cycle.
5. If the limit of terminations deferred some terminations, report the limit.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    and_,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    union_all,
)

from sef.agents import LONGEST_PAUSE
from sef.context import Context
from sef.db.tables import (
    agents,
    cutovers,
    incidents,
    named_devices,
    replica_instances,
    retirements,
    target_looks,
)
from sef.failover.cutover.named_devices import LOOK_EVERY
from sef.failover.cutover.plan import LONGEST_DELAY
from sef.failover.cutover.upkeep import LONGEST_WAIT
from sef.failover.incidents import storms
from sef.failover.instances.limits import LimitHit, TerminationBudget, report_limit
from sef.failover.reconcile import reconcile_agent, standby_ttl
from sef.failover.standbys import watch
from sef.failover.standbys.retirements import LONGEST_POSTPONEMENT
from sef.notifications.failures import report_failure
from sef.terms import LOSING, Goal, IncidentKind, ReplicaStatus, plural

THREADS_PER_LANE = 8
"""Agents of one lane that are reconciled at the same time."""

CYCLES = 100
"""Maximum cycles of one pass. Work that becomes due after the last one waits for the next pass."""

RECENTLY = timedelta(minutes=1)
"""Time after the end of an agent's pause during which the agent is in the retry lane."""

REQUEST_HEAD_START = timedelta(seconds=2)
"""Time after a notice during which only the request that delivered it works on the incident."""


class Lane(StrEnum):
    """A queue of agents with threads of its own."""

    URGENT = "urgent"  # the primary is being lost, or is lost
    ORDINARY = "ordinary"  # all other work
    RETRY = "retry"  # a step failed a moment ago, and its call to EC2 may hang again


@dataclass(frozen=True, slots=True)
class WorkItem:
    """An agent with unfinished work that is due, and the lane that reconciles it."""

    agent_id: str
    lane: Lane


def reconcile_all(ctx: Context) -> int:
    """Make one pass over all agents with unfinished work; return the number of agents."""
    storms.report_storms(ctx, ctx.clock())
    due = _due_work(ctx)
    if not due:
        return 0
    count, budgets = _work_in_lanes(ctx, due)
    for budget in budgets:
        if budget.deferred:
            _report_deferred_terminations(ctx, budget)
    return count


def agents_with_work(
    connection: Connection, now: datetime, *, checked_before: datetime, recommended_after: datetime
) -> Sequence[WorkItem]:
    """Return the agents that have unfinished work, the most urgent first.

    An agent whose work is postponed is left out, except for a cutover step that is due.

    Args:
        checked_before: a standby or a former primary is due for a health check if its last check
            was at or before this time; a missing one is due after `CHECK_MISSING_EVERY`. A last
            check too far in the future, which a worker with a wrong clock has recorded, does not
            delay the next check.
        recommended_after: a ready standby with a later recommendation may need a relief.
    """
    work = _unfinished_work(now, checked_before, recommended_after).subquery()
    urgency = func.min(work.c.urgency)
    deadline = func.min(work.c.deadline)
    rows = connection.execute(
        select(
            work.c.id, urgency.label("urgency"), func.min(agents.c.not_before).label("not_before")
        )
        .join(agents, agents.c.id == work.c.id)
        .where(
            or_(
                agents.c.not_before.is_(None),
                agents.c.not_before <= now,
                agents.c.not_before > now + LONGEST_PAUSE,
                # A cutover does not pause with its agent: each step has a pause of its own.
                exists().where(cutovers.c.open_agent_id == agents.c.id, _is_cutover_due(now)),
            )
        )
        .group_by(work.c.id)
        .order_by(
            urgency,
            deadline.is_(None),  # without this, NULL would sort first
            deadline,
            work.c.id,
        )
    )
    due = []
    for row in rows:
        lane = Lane.URGENT if row.urgency == 0 else Lane.ORDINARY
        if row.not_before is not None and now - RECENTLY < row.not_before <= now:
            lane = Lane.RETRY
        due.append(WorkItem(row.id, lane))
    return due


def _unfinished_work(
    now: datetime, checked_before: datetime, recommended_after: datetime
) -> CompoundSelect[Any]:
    """Build the union of all kinds of work, as agent id, urgency (0 is highest) and deadline.

    Each part of the union is found by an index of its own.
    """
    replica, incident, retirement = replica_instances.c, incidents.c, retirements.c
    is_check_due = or_(
        replica.checked_at.is_(None),
        replica.checked_at <= checked_before,
        replica.checked_at > now + (now - checked_before),
        and_(replica.misses > 0, replica.checked_at <= now - watch.CHECK_MISSING_EVERY),
    )
    no_deadline = literal(None, incident.deadline.type)
    # A drill has the goal `switch` too, but its primary is not being lost: it can wait.
    is_emergency = and_(incident.goal == Goal.SWITCH, incident.kind.in_(LOSING))
    # The request that delivered a notice handles it. Without the head start, the request and this
    # job would both prepare the promotion, for every agent of a storm.
    is_left_to_job = or_(
        incident.kind != IncidentKind.INTERRUPTION,
        incident.termination_at.is_(None),
        incident.termination_at <= now - REQUEST_HEAD_START,
        incident.termination_at > now,  # written by a wrong clock
    )
    open_incidents = select(
        incident.open_agent_id.label("id"),
        case((is_emergency, 0), else_=1).label("urgency"),
        incident.deadline.label("deadline"),
    ).where(incident.open_agent_id.is_not(None), is_left_to_job)
    moving_replicas = select(replica.agent_id, literal(1), no_deadline).where(
        replica.status.in_([ReplicaStatus.LAUNCHING, ReplicaStatus.RELEASING])
    )
    unchecked_standbys = select(replica.agent_id, literal(1), no_deadline).where(
        replica.status == ReplicaStatus.READY, is_check_due
    )
    unchecked_former_primaries = select(retirement.agent_id, literal(2), no_deadline).where(
        retirement.terminated_at.is_(None),
        or_(
            retirement.checked_at.is_(None),
            retirement.checked_at <= checked_before,
            retirement.checked_at > now + (now - checked_before),
            and_(
                retirement.missed_checks > 0,
                retirement.checked_at <= now - watch.CHECK_MISSING_EVERY,
            ),
        ),
    )
    missing_primaries = (
        select(replica.agent_id, literal(2), no_deadline)
        .join(agents, agents.c.id == replica.agent_id)
        .where(
            replica.status == ReplicaStatus.PROMOTED,
            replica.misses > 0,
            is_check_due,
            agents.c.instance_id == replica.instance_id,
        )
    )
    recommended_standbys = select(replica.agent_id, literal(1), no_deadline).where(
        replica.recommended_at > recommended_after, replica.status == ReplicaStatus.READY
    )
    due_retirements = select(retirement.agent_id, literal(2), no_deadline).where(
        retirement.terminated_at.is_(None),
        retirement.terminate_after <= now,
        or_(
            retirement.not_before.is_(None),
            retirement.not_before <= now,
            retirement.not_before > now + LONGEST_POSTPONEMENT,
        ),
    )
    endangered = select(named_devices.c.agent_id, literal(2), no_deadline).where(
        or_(named_devices.c.due_at <= now, named_devices.c.due_at > now + LOOK_EVERY)
    )
    due_cutovers = select(
        cutovers.c.open_agent_id,
        case((cutovers.c.deadline.is_not(None), 0), else_=1),
        cutovers.c.deadline,
    ).where(_is_cutover_due(now))
    due_looks = select(target_looks.c.agent_id, literal(2), no_deadline).where(
        or_(target_looks.c.due_at <= now, target_looks.c.due_at > now + LONGEST_WAIT)
    )
    agents_without_standby = (
        select(agents.c.id, literal(1), no_deadline)
        .outerjoin(replica_instances, replica.live_agent_id == agents.c.id)
        .where(replica.id.is_(None))
    )
    return union_all(
        open_incidents,
        moving_replicas,
        unchecked_standbys,
        unchecked_former_primaries,
        recommended_standbys,
        missing_primaries,
        due_retirements,
        due_cutovers,
        due_looks,
        endangered,
        agents_without_standby.where(agents.c.manual_replica_enabled),
        agents_without_standby.where(agents.c.probation_until > now),
    )


def _is_cutover_due(now: datetime) -> ColumnElement[bool]:
    """Build the condition that a step of a cutover is due.

    A time farther off than any delay was written before the clock was set back.
    """
    due_at = cutovers.c.due_at
    return or_(due_at <= now, due_at > now + LONGEST_DELAY)


def _due_work(ctx: Context) -> Sequence[WorkItem]:
    now = ctx.clock()
    checked_before = now - watch.check_interval(ctx)
    return ctx.database.read(
        agents_with_work,
        now,
        checked_before=checked_before,
        recommended_after=now - standby_ttl(ctx),
    )


def _work_in_lanes(
    ctx: Context, due: Sequence[WorkItem]
) -> tuple[int, Sequence[TerminationBudget]]:
    """Reconcile the agents of each lane in their order.

    The lanes do not wait for each other: a call that EC2 leaves unanswered takes many seconds, and
    the agents whose calls failed have a lane of their own. Agents that become due during the pass
    do not wait for its end: a cycle adds them at the end of each reconcile interval.

    Returns:
        The number of agents, and the budget of terminations of each cycle.
    """
    reconciled: set[str] = set()
    budgets: list[TerminationBudget] = []
    running: dict[Future[None], str] = {}
    with ExitStack() as stack:
        lanes = {
            lane: stack.enter_context(ThreadPoolExecutor(THREADS_PER_LANE, f"sef-{lane}"))
            for lane in Lane
        }
        for _ in range(CYCLES):
            budget = TerminationBudget(ctx.settings.max_terminations_per_run)
            budgets.append(budget)
            busy = set(running.values())
            for item in due:
                if item.agent_id not in busy:
                    future = lanes[item.lane].submit(
                        _reconcile_isolated, ctx, item.agent_id, budget
                    )
                    running[future] = item.agent_id
                    reconciled.add(item.agent_id)
            finished, _ = wait(running, timeout=ctx.settings.reconcile_interval_seconds)
            for future in finished:
                del running[future]
                future.result()
            if not running:
                break
            due = _due_work(ctx)
    for future in running:
        future.result()
    return len(reconciled), budgets


def _reconcile_isolated(ctx: Context, agent_id: str, budget: TerminationBudget) -> None:
    """Reconcile one agent; report an error, so that it does not stop the other agents."""
    try:
        reconcile_agent(ctx, agent_id, budget)
    except Exception as error:
        report_failure(ctx, agent_id, "reconcile", error)


def _report_deferred_terminations(ctx: Context, budget: TerminationBudget) -> None:
    deferred = len(budget.deferred)
    due = ctx.settings.max_terminations_per_run + deferred
    limit_hit = LimitHit("max_terminations_per_run", f"{due} instances are due for termination")
    consequence = f"SEF leaves {plural(deferred, 'termination')} to the next pass"
    ctx.database.write(report_limit, limit_hit, consequence, ctx.clock())
