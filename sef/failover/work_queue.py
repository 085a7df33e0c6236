"""One run over all agents with unfinished work: which agents, in which order, in which lane."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, and_, case, exists, func, literal, or_, select, union_all

from sef.agents import LONGEST_PAUSE
from sef.context import Context
from sef.db.tables import agents, cutovers, incidents, replica_instances, retirements
from sef.errors import Unavailable
from sef.failover.incidents import storms
from sef.failover.instances.limits import LimitHit, TerminationBudget, report_limit
from sef.failover.reconcile import reconcile_agent
from sef.failover.standbys import watch
from sef.terms import LOSING, Goal, IncidentKind, ReplicaStatus, plural

log = logging.getLogger("sef")


PARALLEL = 8
"""Agents of one lane that are worked on at once."""

CYCLES = 100
"""How often a round that does not end looks for more work: then the next one has its turn."""


class Lane(StrEnum):
    """Work that does not wait for that of another lane."""

    URGENT = "urgent"  # an instance is being lost, or is lost
    ORDINARY = "ordinary"
    RETRY = "retry"  # it did not get on a moment ago, and may hang again


@dataclass(frozen=True, slots=True)
class WorkItem:
    agent_id: str
    lane: Lane


def reconcile_all(ctx: Context) -> int:
    """One round over all agents with unfinished work; returns how many there were.

    While it lasts for some of them, whose calls to EC2 are slow, it takes up what has become
    due for the others meanwhile.
    """
    _report_storms(ctx, ctx.clock())
    budgets: list[TerminationBudget] = []

    def begin_cycle() -> Callable[[str], None]:
        budget = TerminationBudget(ctx.settings.max_terminations_per_run)
        budgets.append(budget)
        return lambda agent_id: _reconcile_isolated(ctx, agent_id, budget)

    due = _due_work(ctx)
    count = 0
    if due:
        pause = ctx.settings.reconcile_interval_seconds
        count = work_in_lanes(due, lambda: _due_work(ctx), begin_cycle, pause)
    for budget in budgets:
        if budget.deferred:
            _report_terminations(ctx, budget)
    return count


def _due_work(ctx: Context) -> Sequence[WorkItem]:
    now = ctx.clock()
    checked_before = now - watch.check_interval(ctx)
    return ctx.database.read(agents_with_work, now, checked_before=checked_before)


def _report_storms(ctx: Context, now: datetime) -> None:
    # Here and not with each signal: there the agents of a storm would wait for one another.
    for storm in ctx.database.read(storms.current_storms, now):
        ctx.database.write(storms.report_storm, storm, now)


def _report_terminations(ctx: Context, budget: TerminationBudget) -> None:
    waiting = len(budget.deferred)
    due = ctx.settings.max_terminations_per_run + waiting
    reached = LimitHit("max_terminations_per_run", f"{due} instances were to be terminated")
    consequence = f"{plural(waiting, 'termination')} left for the next cycle"
    ctx.database.write(report_limit, reached, consequence, ctx.clock())


def _reconcile_isolated(ctx: Context, agent_id: str, budget: TerminationBudget) -> None:
    """One agent's trouble must not stop the others."""
    try:
        reconcile_agent(ctx, agent_id, budget)
    except Unavailable:
        log.warning("SEF: the database is away; agent %s waits", agent_id)
    except Exception:
        log.exception("SEF: agent %s could not be reconciled", agent_id)


def work_in_lanes(
    first: Sequence[WorkItem],
    find_due: Callable[[], Sequence[WorkItem]],
    begin_cycle: Callable[[], Callable[[str], None]],
    pause: float,
) -> int:
    """Work on each agent, those of each lane in their order; returns how many agents there were.

    The lanes do not wait for one another: EC2 may leave some calls unanswered, which takes many
    seconds each, and an agent whose calls failed is in a lane of its own kind. Nor do they wait for
    the end of the round: every `pause` seconds what has become due meanwhile is taken in.
    """
    seen: set[str] = set()
    running: dict[Future[None], str] = {}
    due = first
    with ExitStack() as stack:
        lanes = {
            lane: stack.enter_context(ThreadPoolExecutor(PARALLEL, f"sef-{lane}")) for lane in Lane
        }
        for _ in range(CYCLES):
            work = begin_cycle()
            in_hand = set(running.values())
            for item in due:
                if item.agent_id not in in_hand:
                    running[lanes[item.lane].submit(work, item.agent_id)] = item.agent_id
                    seen.add(item.agent_id)
            over, _ = wait(running, timeout=pause)
            for future in over:
                del running[future]
                future.result()
            if not running:
                break
            due = find_due()
    for future in running:
        future.result()
    return len(seen)


RECENTLY = timedelta(minutes=1)

REQUEST_HEAD_START = timedelta(seconds=2)
"""So long the request that has brought a notice is left alone with it."""


def agents_with_work(
    connection: Connection, now: datetime, *, checked_before: datetime
) -> Sequence[WorkItem]:
    """The agents for which something is unfinished, the most urgent first.

    `checked_before`: a standby, or a former primary that still runs, that was last looked at
    before then is looked at again; so is one that a wrong clock has looked at in the future.
    """
    replica, incident, retirement = replica_instances.c, incidents.c, retirements.c
    unchecked = or_(
        replica.checked_at.is_(None),
        replica.checked_at <= checked_before,
        replica.checked_at > now + (now - checked_before),
    )
    never = literal(None, incident.deadline.type)
    # Drills are switches, too, but nothing is lost if they wait.
    is_emergency = and_(incident.goal == Goal.SWITCH, incident.kind.in_(LOSING))
    # Who has just brought a notice is at it: in a storm, every promotion would be prepared twice.
    nobody_is_at_it = or_(
        incident.kind != IncidentKind.INTERRUPTION,
        incident.termination_at.is_(None),
        incident.termination_at <= now - REQUEST_HEAD_START,
        incident.termination_at > now,  # by a clock that is wrong
    )
    # Each part is found by an index of its own.
    work = union_all(
        select(
            incident.open_agent_id.label("id"),
            case((is_emergency, 0), else_=1).label("urgency"),
            incident.deadline.label("deadline"),
        ).where(incident.open_agent_id.is_not(None), nobody_is_at_it),
        select(replica.agent_id, literal(1), never).where(
            replica.status.in_([ReplicaStatus.LAUNCHING, ReplicaStatus.RELEASING])
        ),
        select(replica.agent_id, literal(1), never).where(
            replica.status == ReplicaStatus.READY, unchecked
        ),
        select(replica.agent_id, literal(2), never)
        .join(agents, agents.c.id == replica.agent_id)
        .where(
            replica.status == ReplicaStatus.PROMOTED,
            agents.c.instance_id != replica.instance_id,
            unchecked,
        ),
        select(retirement.agent_id, literal(2), never).where(
            retirement.terminated_at.is_(None),
            retirement.obstacle.is_(None),
            retirement.not_before <= now,
            ~exists().where(
                cutovers.c.open_agent_id == retirement.agent_id,
                cutovers.c.traffic_moved_at.is_(None),
            ),
        ),
        select(
            cutovers.c.open_agent_id,
            case((cutovers.c.deadline.is_not(None), 0), else_=1),
            cutovers.c.deadline,
        ).where(cutovers.c.due_at <= now),
        select(agents.c.id, literal(1), never)
        .outerjoin(replica_instances, replica.live_agent_id == agents.c.id)
        .where(agents.c.manual_replica_enabled, replica.id.is_(None)),
        select(agents.c.id, literal(1), never)
        .outerjoin(replica_instances, replica.live_agent_id == agents.c.id)
        .where(agents.c.probation_until > now, replica.id.is_(None)),
    ).subquery()
    urgency = func.min(work.c.urgency)
    rows = connection.execute(
        select(work.c.id, urgency.label("urgency"), func.min(agents.c.not_before).label("since"))
        .join(agents, agents.c.id == work.c.id)
        .where(
            or_(
                agents.c.not_before.is_(None),
                agents.c.not_before <= now,
                agents.c.not_before > now + LONGEST_PAUSE,
                # A cutover is put off by its own steps alone.
                exists().where(cutovers.c.open_agent_id == agents.c.id, cutovers.c.due_at <= now),
            )
        )
        .group_by(work.c.id)
        .order_by(
            urgency,
            func.min(work.c.deadline).is_(None),  # NULL is the smallest otherwise
            func.min(work.c.deadline),
            work.c.id,
        )
    )
    due = []
    for row in rows:
        lane = Lane.URGENT if row.urgency == 0 else Lane.ORDINARY
        if row.since is not None and now - RECENTLY < row.since <= now:
            lane = Lane.RETRY
        due.append(WorkItem(row.id, lane))
    return due
