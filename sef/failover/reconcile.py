"""Making the world match the rows, for one agent or for all that have unfinished work.

A cycle for an agent alternates between deciding (in one transaction, without EC2) and acting (one
call to EC2, without a transaction) until there is nothing left to do now. It takes no hint of what
happened: a throttle, a crash or a lost answer is repaired by the ordinary path.
"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.agents import Agent, postpone_agent, read_agent
from sef.cloud.errors import CloudError, Remedy
from sef.config import Settings
from sef.context import Context
from sef.errors import Unavailable
from sef.failover import work_queue
from sef.failover.cutover.run import advance_cutover
from sef.failover.incidents import storms
from sef.failover.incidents.rows import Incident, open_incident, update_incident
from sef.failover.instances import launch, run_instances, terminate
from sef.failover.instances.limits import LimitHit, TerminationBudget, report_limit
from sef.failover.instances.run_instances import UntaggedInstance
from sef.failover.policy import (
    AgentState,
    CloseIncident,
    CreateStandby,
    NextStep,
    Promote,
    Release,
    Rest,
    next_step,
)
from sef.failover.promotion import Promotion, promote
from sef.failover.standbys import watch
from sef.failover.standbys.backoff import escalate
from sef.failover.standbys.retirements import Retirement, due_retirements
from sef.failover.standbys.rows import (
    Replica,
    create_replica,
    current_replicas,
    live_standby,
    move_replica,
)
from sef.failover.work_queue import WorkItem, work_in_lanes
from sef.notifications.events import Event, Severity, write_events
from sef.terms import IncidentStatus, NotificationKind, ReplicaStatus, plural

log = logging.getLogger("sef")

STEPS = 100
"""Steps of one cycle: more than any saga has, so that a defect cannot spin."""

RETRY_AFTER = timedelta(seconds=4)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the rows say of an agent: all that is decided by."""

    agent: Agent
    replicas: Sequence[Replica]
    """Those that are not over."""
    incident: Incident | None

    @property
    def standby(self) -> Replica | None:
        return next((replica for replica in self.replicas if replica.live_agent_id), None)

    @property
    def releasing(self) -> Sequence[Replica]:
        return [replica for replica in self.replicas if replica.status is ReplicaStatus.RELEASING]

    @property
    def former(self) -> Sequence[Replica]:
        """Former primaries that, as far as is known, still run."""
        primary = self.agent.instance_id
        return [
            replica
            for replica in self.replicas
            if replica.status is ReplicaStatus.PROMOTED
            and primary not in (None, replica.instance_id)
        ]


def reconcile_agent(
    ctx: Context,
    agent_id: str,
    allowance: TerminationBudget | None = None,
    *,
    seen: Snapshot | None = None,
) -> list[str]:
    """Do all that can be done now for an agent; returns what was done, a sentence each.

    `seen` is what the rows say of it, if that has just been read.

    EC2 that cannot be reached or does not know is no error: the work is left for later. What
    the allowance does not let it terminate is, too; without one there is no end to it.
    """
    done: list[str] = []
    rests = False
    for _ in range(STEPS):
        try:
            seen = seen or ctx.database.read(read_snapshot, agent_id)
            if not done:
                rests = seen.agent.is_postponed(ctx.clock())
            said, is_all = _decide(ctx, seen, is_first=not done)
            said = said or _act(ctx, seen, allowance or TerminationBudget(0), rests=rests)
        except CloudError as error:
            _postpone(ctx, agent_id, error)
            return [*done, f"EC2 could not say: {error}"]
        if said is None:
            break
        log.debug("agent %s: %s", agent_id, said)
        done.append(said)
        if is_all:
            # To look once more takes as long as the promotion, while others wait for theirs.
            break
        seen = None
    return done


def reconcile_all(ctx: Context) -> int:
    """One round over all agents with unfinished work; returns how many there were.

    While it lasts for some of them, whose calls to EC2 are slow, it takes up what has become
    due for the others meanwhile.
    """
    _report_storms(ctx, ctx.clock())
    allowances: list[TerminationBudget] = []

    def begin_cycle() -> Callable[[str], None]:
        allowance = TerminationBudget(ctx.settings.terminations_per_cycle)
        allowances.append(allowance)
        return lambda agent_id: _reconcile_isolated(ctx, agent_id, allowance)

    due = _due_work(ctx)
    count = 0
    if due:
        pause = ctx.settings.reconcile_interval
        count = work_in_lanes(due, _due_work, begin_cycle, pause)
    for allowance in allowances:
        if allowance.refused:
            _report_terminations(ctx, allowance)
    return count


def _due_work(ctx: Context) -> Sequence[WorkItem]:
    now = ctx.clock()
    checked_before = now - watch.check_interval(ctx)
    return ctx.database.read(work_queue.agents_with_work, now, checked_before=checked_before)


def _report_storms(ctx: Context, now: datetime) -> None:
    # Here and not with each signal: there the agents of a storm would wait for one another.
    for storm in ctx.database.read(storms.current_storms, now):
        ctx.database.write(storms.report_storm, storm, now)


def _report_terminations(ctx: Context, allowance: TerminationBudget) -> None:
    waiting = len(allowance.refused)
    due = ctx.settings.terminations_per_cycle + waiting
    reached = LimitHit("terminations_per_cycle", f"{due} instances were to be terminated")
    consequence = f"{plural(waiting, 'termination')} left for the next cycle"
    ctx.database.write(report_limit, reached, consequence, ctx.clock())


def _reconcile_isolated(ctx: Context, agent_id: str, allowance: TerminationBudget) -> None:
    """One agent's trouble must not stop the others."""
    try:
        reconcile_agent(ctx, agent_id, allowance)
    except Unavailable:
        log.warning("SEF: the database is away; agent %s waits", agent_id)
    except Exception:
        log.exception("SEF: agent %s could not be reconciled", agent_id)


def read_snapshot(connection: Connection, agent_id: str) -> Snapshot:
    # In this order: a replica that is promoted meanwhile is not taken for a former primary.
    found = current_replicas(connection, agent_id)
    agent = read_agent(connection, agent_id)
    return Snapshot(agent, found, open_incident(connection, agent_id))


def _decide(ctx: Context, seen: Snapshot, *, is_first: bool) -> tuple[str | None, bool]:
    """Do the next thing that takes no call but a look at the standby.

    Returns:
        What was done, and whether that is known to be all that can be done now.
    """
    step = _step(ctx, seen.agent, seen.standby, seen.incident)
    if isinstance(step, Rest):
        return None, False
    unseen = None
    if isinstance(step, Promote) and seen.standby is not None and is_first:
        is_emergency = seen.incident is None or seen.incident.is_emergency
        unseen = _make_sure_of(ctx, seen.standby, is_emergency=is_emergency)
    said, promotion = ctx.database.write(apply, ctx, seen.agent.id, unseen)
    is_all = is_first and promotion is not None and promotion.is_all and not seen.releasing
    return said, is_all


def next_decision(
    connection: Connection, ctx: Context, agent_id: str, *, lock: bool = False
) -> tuple[NextStep, Agent, Replica | None, Incident | None]:
    """The next thing to decide for an agent, and what it was decided from."""
    agent = read_agent(connection, agent_id, lock=lock)
    standby = live_standby(connection, agent_id)
    incident = open_incident(connection, agent_id)
    return _step(ctx, agent, standby, incident), agent, standby, incident


def _step(
    ctx: Context, agent: Agent, standby: Replica | None, incident: Incident | None
) -> NextStep:
    now = ctx.clock()
    step = next_step(
        agent.state(now),
        standby.status if standby else None,
        incident.state(agent) if incident else None,
        standby_ttl=timedelta(seconds=ctx.settings.standby_ttl),
        now=now,
    )
    is_put_off = isinstance(step, CreateStandby) and agent.is_postponed(now)
    return Rest() if is_put_off else step


def apply(
    connection: Connection, ctx: Context, agent_id: str, unseen: str | None
) -> tuple[str | None, Promotion | None]:
    """Carry the next decision out, as far as it is rows; `unseen` is for `promote`."""
    step, agent, standby, incident = next_decision(connection, ctx, agent_id, lock=True)
    now = ctx.clock()
    match step:
        case CreateStandby(replica_type, reason):
            incident_id = incident.id if incident else None
            replica_id = create_replica(
                connection, agent_id, replica_type, reason, incident_id, now
            )
            if incident is not None:
                update_incident(connection, incident, replica_id=replica_id)
        case Promote(reason) if standby is not None:
            retire_after = _retire_after(agent.state(now), incident, ctx.settings)
            promotion = promote(
                connection,
                agent,
                standby,
                incident,
                reason,
                ctx.clock,
                retire_after=retire_after,
                settings=ctx.settings,
                unseen=unseen,
            )
            return f"promoted {standby.instance_id}: {reason}", promotion
        case Release(reason) if standby is not None:
            move_replica(connection, standby, ReplicaStatus.RELEASING, reason, now)
        case CloseIncident(outcome, reason) if incident is not None:
            update_incident(connection, incident, status=outcome, closed_at=now, reason=reason)
            is_failure = incident.kind.is_planned and outcome is IncidentStatus.RELEASED
            event = Event(
                "incident_closed",
                f"{incident.kind} is {outcome}: {reason}",
                agent_id,
                "error" if is_failure else "info",
                incident_id=incident.id,
                moment=NotificationKind.OUTCOME,
            )
            write_events(connection, [event], now)
        case _:
            return None, None
    return f"{type(step).__name__}: {step.reason}", None


def _make_sure_of(ctx: Context, standby: Replica, *, is_emergency: bool) -> str | None:
    """Look at a standby once more before it is promoted; return why that could not be done.

    When EC2 cannot say, it is promoted all the same if the primary is certain to be lost.

    Raises:
        CloudError: EC2 cannot say, and there is time to ask again.
    """
    try:
        watch.require_running(ctx, standby)
    except CloudError as error:
        if not is_emergency:
            raise
        log.warning("SEF: %s is promoted unseen: %s", standby.instance_id, error)
        return str(error)
    return None


def _act(ctx: Context, seen: Snapshot, allowance: TerminationBudget, *, rests: bool) -> str | None:
    """Do one thing that takes calls to EC2.

    A launch that is put off in this cycle holds nothing else up in it: the old primary is
    still terminated. When EC2 is to be left alone since an earlier one, the cycle `rests`.
    """
    agent, standby = seen.agent, seen.standby
    # What serves goes before what stands by, and waits for no launch that is put off.
    said = advance_cutover(ctx, agent.id)
    if said is not None or rests:
        return said
    is_launching = standby is not None and standby.status is ReplicaStatus.LAUNCHING
    if standby is not None and is_launching and not agent.is_postponed(ctx.clock()):
        said = launch.advance(ctx, agent, standby, seen.incident)
        if said is not None:
            return said
    for replica in seen.releasing:
        if not replica.misses or watch.is_due(ctx, replica):
            said = terminate.release_standby(ctx, replica, allowance)
            if said is not None:
                return said
    retiring, untagged = ctx.database.read(_chores, ctx, agent.id)
    for retirement in retiring:
        said = terminate.terminate_former_primary(ctx, retirement, allowance)
        if said is not None:
            return said
    if standby is not None and standby.status is ReplicaStatus.READY and watch.is_due(ctx, standby):
        return f"the standby is looked after: {watch.check_standby(ctx, standby)}"
    former = [replica for replica in seen.former if watch.is_due(ctx, replica)]
    if former:
        return watch.check_former_primaries(ctx, former)
    # Nothing has to wait for its tags.
    run_instances.tag_instances(ctx, untagged)
    return None


def _chores(
    connection: Connection, ctx: Context, agent_id: str
) -> tuple[Sequence[Retirement], Sequence[UntaggedInstance]]:
    return (
        due_retirements(connection, agent_id, ctx.clock()),
        run_instances.untagged_instances(connection, agent_id),
    )


def _postpone(ctx: Context, agent_id: str, error: CloudError) -> None:
    def write(connection: Connection) -> None:
        now = ctx.clock()
        agent = read_agent(connection, agent_id, lock=True)
        # Jitter, so that a throttled fleet does not come back all at once.
        pause = RETRY_AFTER * random.uniform(0.5, 1.5)
        is_news = agent.not_before is None or now - agent.not_before > timedelta(minutes=5)
        said = f"EC2 could not say: {error}"
        postpone_agent(connection, agent, now, pause, said)
        is_refusal = error.response is Remedy.OPERATOR
        escalate(connection, agent_id, said, now, at_once=is_refusal)
        if is_news:
            severity: Severity = "error" if is_refusal else "warning"
            incident = open_incident(connection, agent_id)
            event = Event(
                "cloud_unavailable",
                said,
                agent_id,
                severity,
                {"code": error.code, "next": error.response, "call": error.call},
                incident.id if incident else None,
            )
            write_events(connection, [event], now)

    ctx.database.write(write)


def _retire_after(
    agent: AgentState, incident: Incident | None, settings: Settings
) -> timedelta | None:
    """When to terminate the old primary after an automatic switch; None: not by us.

    What AWS has given notice to, AWS terminates. A planned switchover leaves nothing behind.
    """
    if incident is not None and incident.kind.is_planned:
        return timedelta(seconds=settings.drain)
    if incident is not None and not incident.is_emergency and agent.auto_terminate:
        return timedelta(seconds=settings.drain)
    return None
