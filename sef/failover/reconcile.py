"""Bring one agent to what its rows say it should be.

A pass repeats these steps until there is nothing left to do now:

1. Read a snapshot of the agent: its row, its replicas, its open incident.
2. Decide the next step from it (`sef.failover.policy`). If there is one, carry it out in one
   transaction that locks the agent, without a call to EC2, and start again.
3. Otherwise act: make one call to AWS that the rows ask for, outside of any transaction, in this
   order: the next cutover step, the launch, releases, terminations of former primaries, health
   checks, missing tags, a look at the targets (`sef.failover.actions`). Record its outcome and
   start again.

A pass relies on the rows alone. The ordinary steps therefore repair a throttled call, a crash and a
lost answer too.
"""

import logging
import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.agents import Agent, postpone_agent, read_agent
from sef.cloud.errors import CloudError, Remedy
from sef.config import Settings
from sef.context import Context
from sef.failover.actions import act
from sef.failover.incidents.announced import open_announced
from sef.failover.incidents.closing import close_incident
from sef.failover.incidents.rows import Incident, open_incident, update_incident
from sef.failover.instances import relief
from sef.failover.instances.limits import TerminationBudget
from sef.failover.policy import (
    CloseIncident,
    CreateRelief,
    CreateStandby,
    Promote,
    PromoteSpare,
    Release,
    Rest,
)
from sef.failover.promotion import Promotion, Successor, promote, standby_as_successor
from sef.failover.returned import release_if_returned
from sef.failover.snapshot import Snapshot, read_snapshot
from sef.failover.standbys import watch
from sef.failover.standbys.backoff import escalate
from sef.failover.standbys.retirements import (
    read_retirement,
)
from sef.failover.standbys.rows import (
    Replica,
    create_replica,
    move_replica,
    replica_of_instance,
)
from sef.notifications.events import Event, Severity, write_events
from sef.terms import IncidentStatus, ReplicaStatus

log = logging.getLogger("sef")

STEPS = 100
"""Maximum steps of one pass: more than any incident needs, so that a defect cannot loop forever."""

RETRY_AFTER = timedelta(seconds=4)
"""Mean pause of an agent's work after EC2 did not return a usable answer."""

REPORT_AGAIN_AFTER = timedelta(minutes=5)
"""Time after the end of a pause from which another postponement gets an event of its own."""


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was taken.

    Attributes:
        sentence: the step, for the log.
        promotion: the promotion, if the step was one.
        is_last: the agent has no work left.
    """

    sentence: str
    promotion: Promotion | None = None
    is_last: bool = False


def reconcile_agent(
    ctx: Context,
    agent_id: str,
    budget: TerminationBudget | None = None,
    *,
    snapshot: Snapshot | None = None,
) -> list[str]:
    """Take all steps that an agent needs now; return a sentence for each step.

    If EC2 cannot be reached, or does not return a usable answer, postpone the agent's work for some
    seconds instead of raising an error.

    Args:
        budget: the terminations that are left in this run; unlimited if None.
        snapshot: the agent's rows, if the caller's transaction has just read them.
    """
    budget = budget or TerminationBudget(0)
    sentences: list[str] = []
    failed: set[str] = set()
    is_postponed = False
    for _ in range(STEPS):
        try:
            snapshot = snapshot or ctx.database.read(read_snapshot, agent_id)
            if not sentences:
                is_postponed = snapshot.agent.is_postponed(ctx.clock())
            done = _decide(ctx, snapshot, is_first=not sentences)
            if done is None:
                sentence = act(ctx, snapshot, budget, failed, is_postponed=is_postponed)
                done = None if sentence is None else Done(sentence)
        except CloudError as error:
            return [*sentences, _postpone(ctx, agent_id, error)]
        if done is None:
            break
        log.debug("agent %s: %s", agent_id, done.sentence)
        sentences.append(done.sentence)
        if done.is_last and len(sentences) == 1:
            # Another read would take as long as the promotion, and other agents wait for theirs.
            break
        snapshot = None
    return sentences


def _decide(ctx: Context, snapshot: Snapshot, *, is_first: bool) -> Done | None:
    """Take the next step of the policy, in one transaction; return None if it has no step.

    A promotion is preceded by a health check of the standby if it is the first step of the pass.
    Otherwise the pass has just checked the standby.
    """
    step = snapshot.next_step(ctx.clock(), standby_ttl(ctx))
    if isinstance(step, PromoteSpare) and not _is_running(ctx, step.instance_id):
        # Go on without it; the next pass asks EC2 again.
        snapshot = replace(snapshot, spares=snapshot.spares[1:])
        return _decide(ctx, snapshot, is_first=is_first)
    if isinstance(step, Rest):
        return None
    if isinstance(step, Promote):
        released = release_if_returned(ctx, snapshot.incident)
        if released is not None:
            return Done(released)
    unchecked = None
    if isinstance(step, Promote) and snapshot.standby is not None and is_first:
        incident = snapshot.incident
        is_emergency = incident is None or incident.is_emergency
        unchecked = _verify_standby(ctx, snapshot.standby, is_emergency=is_emergency)
    spares = {spare.instance_id for spare in snapshot.spares}
    return ctx.database.write(apply_step, ctx, snapshot.agent.id, unchecked, spares)


def _is_running(ctx: Context, instance_id: str) -> bool:
    """Return True if EC2 shows a spare instance running; an error of EC2 counts as no."""
    try:
        instance = ctx.ec2.instances([instance_id]).get(instance_id)
    except CloudError as error:
        log.warning("SEF: EC2 did not confirm that %s runs: %s", instance_id, error)
        return False
    return instance is not None and instance.ec2_state == "running"


def standby_ttl(ctx: Context) -> timedelta:
    """Return the time for which a standby is kept after a recommendation."""
    return timedelta(seconds=ctx.settings.standby_ttl_seconds)


def apply_step(
    connection: Connection,
    ctx: Context,
    agent_id: str,
    unchecked: str | None = None,
    spares: Collection[str] = (),
) -> Done | None:
    """Lock the agent, decide again, and write the decision.

    The rows may have changed between the first decision and the lock.

    Args:
        unchecked: the reason why EC2 was not asked about the standby. None: EC2 was asked.
        spares: the spare instances that may be promoted; the first of them was seen running.
    """
    snapshot = read_snapshot(connection, agent_id, lock=True).restricted_to(spares)
    standby, incident = snapshot.standby, snapshot.incident
    now = ctx.clock()
    step = snapshot.next_step(now, standby_ttl(ctx))
    match step:
        case CreateStandby(replica_type, reason):
            incident_id = incident.id if incident else None
            replica_id = create_replica(
                connection, agent_id, replica_type, reason, incident_id, now
            )
            if incident is not None:
                update_incident(connection, incident, replica_id=replica_id)
        case CreateRelief(replica_type, reason) if standby is not None:
            sentence = relief.create_relief(
                connection, ctx, standby, replica_type, reason, incident, now
            )
            return Done(sentence)
        case Promote(reason) if standby is not None:
            successor = standby_as_successor(standby)
            return _promote(connection, ctx, snapshot, successor, reason, unchecked)
        case PromoteSpare(instance_id, reason):
            spare = _spare_as_successor(connection, instance_id)
            if spare is None:
                return None
            done = _promote(connection, ctx, snapshot, spare, reason, unchecked)
            # A spare with a recommendation needs a standby of its own.
            agent = read_agent(connection, agent_id)
            is_announced = open_announced(connection, agent, now, standby_ttl=standby_ttl(ctx))
            return replace(done, is_last=done.is_last and not is_announced)
        case Release(reason) if standby is not None:
            move_replica(connection, standby, ReplicaStatus.RELEASING, reason, now)
        case CloseIncident(outcome, reason) if incident is not None:
            _close(connection, incident, outcome, reason, now)
        case _:
            return None
    return Done(f"{type(step).__name__}: {step.reason}")


def _promote(
    connection: Connection,
    ctx: Context,
    snapshot: Snapshot,
    successor: Successor,
    reason: str,
    unchecked: str | None,
) -> Done:
    agent, incident = snapshot.agent, snapshot.incident
    promotion = promote(
        connection,
        agent,
        successor,
        incident,
        reason,
        ctx.clock,
        retire_after=_retire_after(agent, incident, ctx.settings),
        settings=ctx.settings,
        unchecked=unchecked,
    )
    is_standby_left = snapshot.standby is not None and snapshot.standby != successor.replica
    return Done(
        f"promoted {successor.instance_id}: {reason}",
        promotion,
        is_last=not (promotion.has_follow_up or snapshot.releasing or is_standby_left),
    )


def _spare_as_successor(connection: Connection, instance_id: str) -> Successor | None:
    """Return a spare instance to promote; None if SEF has committed to terminate it."""
    replica = replica_of_instance(connection, instance_id)
    retirement = read_retirement(connection, instance_id, lock=True)
    if retirement is not None:
        is_ending = retirement.call_at is not None
        pool_id, market = retirement.pool_id, retirement.market
    elif replica is not None and replica.status is ReplicaStatus.RELEASING:
        is_ending = replica.call_at is not None
        pool_id, market = replica.pool_id, replica.market
    else:
        return None
    return None if is_ending else Successor(instance_id, pool_id, market, replica)


def _close(
    connection: Connection, incident: Incident, outcome: IncidentStatus, reason: str, now: datetime
) -> None:
    is_failure = incident.kind.is_planned and outcome is IncidentStatus.RELEASED
    severity: Severity = "error" if is_failure else "info"
    close_incident(connection, incident, outcome, reason, now, severity)


def _verify_standby(ctx: Context, standby: Replica, *, is_emergency: bool) -> str | None:
    """Check before a promotion that the standby runs; return the reason if EC2 did not answer.

    Without an answer SEF promotes the standby only in an emergency, since the primary is certain
    to be lost.

    Raises:
        CloudError: EC2 did not answer, and there is time to ask again.
    """
    try:
        watch.require_running(ctx, standby)
    except CloudError as error:
        if not is_emergency:
            raise
        log.warning(
            "SEF: promoting %s although EC2 did not confirm that it runs: %s",
            standby.instance_id,
            error,
        )
        return str(error)
    return None


def _postpone(ctx: Context, agent_id: str, error: CloudError) -> str:
    """Postpone the agent's work after an error of EC2; return the reason."""
    reason = f"EC2 did not return a usable answer: {error}"
    ctx.database.write(_write_postponement, ctx, agent_id, error, reason)
    return reason


def _write_postponement(
    connection: Connection, ctx: Context, agent_id: str, error: CloudError, reason: str
) -> None:
    now = ctx.clock()
    agent = read_agent(connection, agent_id, lock=True)
    # Without jitter, all agents of a throttled fleet would retry at the same moment.
    pause = RETRY_AFTER * random.uniform(0.5, 1.5)
    is_new = agent.not_before is None or now - agent.not_before > REPORT_AGAIN_AFTER
    postpone_agent(connection, agent, now, pause, reason)
    is_refusal = error.remedy is Remedy.OPERATOR
    escalate(connection, agent_id, reason, now, at_once=is_refusal)
    if is_new:
        severity: Severity = "error" if is_refusal else "warning"
        incident = open_incident(connection, agent_id)
        event = Event(
            "cloud_unavailable",
            reason,
            agent_id=agent_id,
            severity=severity,
            details={"code": error.code, "next": error.remedy, "call": error.call},
            incident_id=incident.id if incident else None,
        )
        write_events(connection, [event], now)


def _retire_after(agent: Agent, incident: Incident | None, settings: Settings) -> timedelta | None:
    """Return the delay after which SEF terminates the old primary of an automatic promotion.

    None: SEF does not terminate it. AWS terminates an instance after its notice. A planned
    switchover always ends with the termination of the old primary.
    """
    if incident is None or incident.is_emergency:
        return None
    if incident.kind.is_planned or agent.auto_terminate_enabled:
        return timedelta(seconds=settings.drain_seconds)
    return None
