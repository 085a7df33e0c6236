"""Find out what a call would do: execute it in a transaction and roll the transaction back.

1. Ask EC2 everything that the call may need (`cloud_snapshot`), since no transaction calls EC2.
2. In a transaction, let the call write what it writes.
3. Reconcile the agent in the same transaction: decide and apply steps, rank pools and decide
   launches with the code of the real call. An instance that would be launched is taken to run.
4. Note each step in the plan (`plan`), with its usual time (`forecast`).
5. Roll the transaction back and return the answer of the call and the plan.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import uuid4

from sqlalchemy import Connection

from sef.agents import Agent, read_agent
from sef.clock import iso, milliseconds
from sef.context import Context
from sef.failover.explain.cloud_snapshot import CloudSnapshot, read_cloud
from sef.failover.explain.forecast import forecast_launch
from sef.failover.explain.plan import (
    NOT_LAUNCHED,
    PlanStep,
    budget,
    candidate_fields,
    decided_steps,
    final_steps,
    instance_name,
    promotion_steps,
    read_baseline,
)
from sef.failover.incidents.rows import Incident
from sef.failover.instances import arrival, attempts, launch
from sef.failover.instances.attempts import Attempt
from sef.failover.instances.candidates import rank_candidates
from sef.failover.instances.place_warnings import warnings_of
from sef.failover.policy import Rest
from sef.failover.promotion import Promotion
from sef.failover.reconcile import STEPS, apply_step, standby_ttl
from sef.failover.snapshot import read_snapshot
from sef.failover.standbys import watch
from sef.failover.standbys.retirements import agent_with_primary
from sef.failover.standbys.rows import Replica, change_replica, read_replica
from sef.terms import ReplicaStatus

T = TypeVar("T")
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """The result of a dry run."""

    answer: Answer
    course: Answer
    """The fields that the answer of every dry run has: `plan`, `budget` and `warnings`."""


def dry_run(
    ctx: Context,
    agent_id: str,
    begin: Callable[[Connection, Context, str], T],
    answer_of: Callable[[Connection, T], Answer],
    *,
    must_run: bool = False,
) -> DryRunResult:
    """Execute a call and roll it back.

    Args:
        begin: writes what the call writes.
        answer_of: returns the answer of the call, from the result of `begin`.
        must_run: the call fails unless EC2 shows that the standby is running.

    Raises:
        SefError: the call itself would raise it.
    """
    cloud = read_cloud(ctx, agent_id, must_run=must_run)
    return ctx.database.rehearse(_execute, ctx, agent_id, begin, answer_of, cloud, must_run)


def _execute(
    connection: Connection,
    ctx: Context,
    agent_id: str,
    begin: Callable[[Connection, Context, str], T],
    answer_of: Callable[[Connection, T], Answer],
    cloud: CloudSnapshot,
    must_run: bool,
) -> DryRunResult:
    """Execute the call and reconcile the agent, in the transaction that is rolled back."""
    now = ctx.clock()
    baseline = read_baseline(connection, agent_id, now)
    if must_run:
        # A switch checks the standby before it writes anything; a signal is recorded first.
        _drop_lost_standby(connection, ctx, cloud)
    begun = begin(connection, ctx, agent_id)
    _drop_lost_standby(connection, ctx, cloud)
    plan: list[PlanStep] = []
    if isinstance(begun, Promotion):
        reason = "an operator switched"
        plan += promotion_steps(connection, agent_id, begun, reason, baseline, ctx.clock())
    answer: Answer | None = None
    deadline: datetime | None = None
    for _ in range(STEPS):
        snapshot = read_snapshot(connection, agent_id).restricted_to(cloud.running)
        agent, standby, incident = snapshot.agent, snapshot.standby, snapshot.incident
        step = snapshot.next_step(ctx.clock(), standby_ttl(ctx))
        if incident is not None and incident.kind.is_announced:
            deadline = incident.deadline
        if not isinstance(step, Rest):
            done = apply_step(connection, ctx, agent_id, spares=cloud.running)
            if done is not None and done.promotion is not None:
                plan += promotion_steps(
                    connection, agent_id, done.promotion, step.reason, baseline, ctx.clock()
                )
            else:
                plan += decided_steps(step, standby)
            continue
        launching = snapshot.relief or standby
        if launching is None or not _is_launching(connection, ctx, agent, launching):
            ttl = ctx.settings.standby_ttl_seconds
            plan += final_steps(agent, standby, incident, ttl, now)
            break
        plan.append(_launch_step(connection, ctx, agent, launching, incident, cloud))
        # The real call answers before the instance runs, but after a launch that is impossible.
        answer = answer or answer_of(connection, begun)
        if plan[-1].problem is not None:
            break
        _take_as_running(connection, ctx, launching.id, now)
    return DryRunResult(
        answer or answer_of(connection, begun),
        _plan_fields(connection, ctx, agent_id, plan, deadline, cloud, now),
    )


def _drop_lost_standby(connection: Connection, ctx: Context, cloud: CloudSnapshot) -> None:
    if cloud.lost is not None:
        watch.move_checked_in(
            connection, ctx, cloud.lost.standby, ReplicaStatus.FAILED, cloud.lost.reason
        )


def _is_launching(connection: Connection, ctx: Context, agent: Agent, standby: Replica) -> bool:
    """Return True if a standby is launching, or would be launched now."""
    if standby.status is not ReplicaStatus.LAUNCHING:
        return False
    launch_attempts = attempts.attempts_of(connection, standby.id)
    return _is_unrefused(launch_attempts) or not agent.is_postponed(ctx.clock())


def _is_unrefused(launch_attempts: Sequence[Attempt]) -> bool:
    """Return True if there is an attempt, and EC2 has not refused the last one."""
    return bool(launch_attempts) and launch_attempts[-1].status != "refused"


def _launch_step(
    connection: Connection,
    ctx: Context,
    agent: Agent,
    standby: Replica,
    incident: Incident | None,
    cloud: CloudSnapshot,
) -> PlanStep:
    """Return the step of a standby that is launching, or decide its launch."""
    launch_attempts = attempts.attempts_of(connection, standby.id)
    if _is_unrefused(launch_attempts):
        return _await_step(connection, standby, launch_attempts[-1], ctx.clock())
    impossible = PlanStep("launch", "no standby can be launched", standby.reason)
    options = cloud.options_for(agent)
    if options is None:
        assert cloud.problem is not None
        problem = launch.cannot_launch(connection, ctx, standby, incident, cloud.problem)
        return replace(impossible, problem=problem)
    ranked = rank_candidates(connection, ctx, agent, incident, options, launch_attempts)
    sentence = launch.decide_launch(
        connection, ctx, standby, incident, launch_attempts, options, ranked
    )
    decided = read_replica(connection, standby.id)
    is_decided = len(attempts.attempts_of(connection, standby.id)) > len(launch_attempts)
    if decided is None or sentence is None or not is_decided:
        return replace(impossible, candidates=candidate_fields(ranked), problem=sentence)
    forecast = forecast_launch(connection, decided.market, ctx.clock())
    return PlanStep(
        "launch",
        sentence,
        standby.reason,
        candidates=candidate_fields(ranked),
        expected_seconds=forecast.seconds,
        basis=forecast.basis,
    )


def _await_step(
    connection: Connection, standby: Replica, attempt: Attempt, now: datetime
) -> PlanStep:
    if attempt.status == "open":
        sentence = f"EC2 has not answered the launch in {standby.pool_id}; the call is repeated"
    else:
        sentence = f"{instance_name(standby.instance_id)} is launching in {standby.pool_id}"
    forecast = forecast_launch(connection, standby.market, now)
    left = None
    if forecast.seconds is not None:
        age = milliseconds(standby.created_at, now) / 1000
        left = max(0.0, round(forecast.seconds - age, 3))
    return PlanStep(
        "await",
        sentence,
        standby.reason,
        standby.instance_id,
        expected_seconds=left,
        basis=forecast.basis,
    )


def _take_as_running(connection: Connection, ctx: Context, replica_id: str, now: datetime) -> None:
    launched = read_replica(connection, replica_id)
    assert launched is not None
    if launched.instance_id is None:
        instance_id = f"{NOT_LAUNCHED}{uuid4().hex}"
        change_replica(connection, launched, instance_id=instance_id, launched_at=now)
        launched = read_replica(connection, replica_id)
        assert launched is not None
    arrival.mark_ready(connection, ctx, launched, str(launched.pool_id))


def _plan_fields(
    connection: Connection,
    ctx: Context,
    agent_id: str,
    plan: list[PlanStep],
    deadline: datetime | None,
    cloud: CloudSnapshot,
    now: datetime,
) -> Answer:
    time = budget(deadline, plan, now)
    # A plan with a promotion has changed the agent's pool.
    agent = read_agent(connection, agent_id)
    place = warnings_of(ctx, agent, cloud.options) if cloud.options else []
    return {
        "plan": [asdict(step) for step in plan],
        "budget": {
            "deadline": iso(time.deadline),
            "seconds_left": time.seconds_left,
            "expected_seconds": time.expected_seconds,
            "is_enough": time.is_enough,
        },
        "warnings": [
            *cloud.targets.in_pool(agent.pool_id),
            *_kept(connection, agent_id, plan, cloud, agent.pool_id),
            *place,
            *cloud.routes,
        ],
    }


def _kept(
    connection: Connection,
    agent_id: str,
    plan: Sequence[PlanStep],
    cloud: CloudSnapshot,
    pool_id: str | None,
) -> list[str]:
    """Return the reasons why SEF would not terminate the old primary that it plans to terminate."""
    promoted = {step.instance_id for step in plan if step.step == "promote"}
    old = cloud.primary
    is_planned = any(step.step == "terminate" and step.instance_id == old for step in plan)
    if old is None or not promoted or not is_planned:
        return []
    reasons = []
    other = agent_with_primary(connection, old, other_than=agent_id)
    if other is not None:
        reasons.append(f"it is the primary of {other}")
    left = cloud.targets.left_with(old, pool_id)
    if left:
        reasons.append(f"it still has {', '.join(left)}")
    return [f"{old} keeps running after the switch: {reason}" for reason in reasons]
