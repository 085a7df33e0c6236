"""What a call would do, found out by doing it in a transaction that is rolled back.

The plan is made by the code that the real call uses: it records, decides, ranks, promotes and
retires. Only EC2 is left out. What is to be asked of it is asked before the transaction, and an
instance that would be launched is taken to run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import uuid4

from sqlalchemy import Connection

from sef.agents import Agent, read_agent
from sef.clock import iso
from sef.cloud.errors import CloudError
from sef.context import Context
from sef.failover.cutover.checks import TargetCheck, check_targets
from sef.failover.cutover.events import step_name
from sef.failover.cutover.rows import cutover_of_epoch, steps_of
from sef.failover.explain import forecast
from sef.failover.explain.forecast import (
    NOT_LAUNCHED,
    PlanStep,
    _described,
    _id,
    _name,
    _ranked,
    budget,
    typical_duration,
)
from sef.failover.incidents.rows import Incident
from sef.failover.instances import attempts, launch
from sef.failover.instances.candidates import (
    LaunchOptions,
    NoLaunchConfiguration,
    launch_options,
    rank_candidates,
)
from sef.failover.policy import Rest
from sef.failover.promotion import Promotion
from sef.failover.reconcile import STEPS, apply_step, standby_ttl
from sef.failover.snapshot import read_snapshot
from sef.failover.standbys import watch
from sef.failover.standbys.retirements import planned_retirements
from sef.failover.standbys.rows import Replica, change_replica, live_standby, read_replica
from sef.failover.standbys.watch import Observed, classify, unknown_state
from sef.terms import Goal, ReplicaStatus, StepStatus, parse_pool

T = TypeVar("T")
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CloudSnapshot:
    """What EC2 said before the rehearsal."""

    primary: str | None
    survey: LaunchOptions | None
    problem: NoLaunchConfiguration | CloudError | None
    """Why it told nothing of what to launch."""
    lost: tuple[Replica, str] | None
    """A ready standby that does not run any more."""
    targets: TargetCheck


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the rows said before the rehearsal added its own."""

    retirements: Mapping[str, datetime]
    failovers: Sequence[float]
    """How long those have taken so far, in seconds."""


@dataclass(frozen=True, slots=True)
class DryRunResult:
    answer: Answer
    course: Answer
    """What every dry run answers with: `plan`, `budget` and `warnings`."""


def dry_run(
    ctx: Context,
    agent_id: str,
    begin: Callable[[Connection, Context, str], T],
    tell: Callable[[Connection, T], Answer],
    *,
    must_run: bool = False,
) -> DryRunResult:
    """Play a call through, and undo it.

    Args:
        begin: what the call itself writes.
        tell: the answer, once all is decided that can be decided at once.
        must_run: whether the call is refused when EC2 cannot tell that the standby runs.

    Raises:
        SefError: what the call itself would raise.
    """
    outlook = _ask_cloud(ctx, agent_id, must_run)

    def begun(connection: Connection) -> T:
        # A switch looks at the standby before it writes anything, a signal is written first.
        if must_run:
            _drop_lost_standby(connection, ctx, outlook)
        result = begin(connection, ctx, agent_id)
        _drop_lost_standby(connection, ctx, outlook)
        return result

    return ctx.database.rehearse(_play, ctx, agent_id, begun, tell, outlook)


def _drop_lost_standby(connection: Connection, ctx: Context, outlook: CloudSnapshot) -> None:
    if outlook.lost is not None:
        standby, why = outlook.lost
        watch.move_checked_in(connection, ctx, standby, ReplicaStatus.FAILED, why)


def _ask_cloud(ctx: Context, agent_id: str, must_run: bool) -> CloudSnapshot:
    snapshot = ctx.database.read(read_snapshot, agent_id)
    agent, standby = snapshot.agent, snapshot.standby
    lost = None
    if standby is not None and standby.status is ReplicaStatus.READY and standby.instance_id:
        try:
            shown = ctx.ec2.instances([standby.instance_id])
            instance = shown.get(standby.instance_id)
            if instance is not None and classify(instance) is Observed.GONE:
                lost = (standby, f"its instance is {instance.ec2_state}")
            elif must_run and classify(instance) is not Observed.RUNNING:
                raise unknown_state(standby)
        except CloudError:
            if must_run:
                raise
    targets = check_targets(ctx, agent)
    try:
        survey = launch_options(ctx, agent)
        return CloudSnapshot(agent.instance_id, survey, None, lost, targets)
    except (NoLaunchConfiguration, CloudError) as error:
        return CloudSnapshot(agent.instance_id, None, error, lost, targets)


def _survey_now(outlook: CloudSnapshot, agent: Agent) -> LaunchOptions | None:
    """What EC2 said, for the primary that the agent has by now."""
    if outlook.survey is None or agent.instance_id == outlook.primary:
        return outlook.survey
    elsewhere = replace(outlook.survey.source, primary_pool=parse_pool(agent.pool_id))
    return replace(outlook.survey, source=elsewhere)


def _play(
    connection: Connection,
    ctx: Context,
    agent_id: str,
    begin: Callable[[Connection], T],
    tell: Callable[[Connection, T], Answer],
    outlook: CloudSnapshot,
) -> DryRunResult:
    now = ctx.clock()
    before = Baseline(
        planned_retirements(connection, agent_id),
        forecast.promotion_durations(connection, now),
    )
    begun = begin(connection)
    plan: list[PlanStep] = []
    if isinstance(begun, Promotion):
        plan += _promotion(connection, ctx, agent_id, begun, "an operator switched", before)
    answer: Answer | None = None
    deadline = None
    for _ in range(STEPS):
        snapshot = read_snapshot(connection, agent_id)
        agent, standby_now, incident = snapshot.agent, snapshot.standby, snapshot.incident
        step = snapshot.next_step(ctx.clock(), standby_ttl(ctx))
        if incident is not None and incident.kind.is_announced:
            deadline = incident.deadline
        if not isinstance(step, Rest):
            done = apply_step(connection, ctx, agent_id)
            if done is not None and done.promotion is not None:
                plan += _promotion(connection, ctx, agent_id, done.promotion, step.reason, before)
            else:
                plan += _described(step, standby_now)
            continue
        if standby_now is None or not _is_coming(connection, ctx, agent, standby_now):
            plan += _rest(ctx, agent, standby_now, incident, now)
            break
        plan.append(_launch(connection, ctx, agent, standby_now, incident, outlook))
        # The call answers before the instance runs, but after it was found to be impossible.
        answer = answer or tell(connection, begun)
        if plan[-1].problem is not None:
            break
        _take_ready(connection, ctx, standby_now.id, now)
    answer = answer or tell(connection, begun)
    time = budget(deadline, plan, now)
    # It has another primary by now, where the plan promotes one.
    pool_id = read_agent(connection, agent_id).pool_id
    return DryRunResult(
        answer,
        {
            "plan": [asdict(step) for step in plan],
            "budget": {
                "deadline": iso(time.deadline),
                "seconds_left": time.seconds_left,
                "expected_seconds": time.expected_seconds,
                "is_enough": time.is_enough,
            },
            "warnings": outlook.targets.in_pool(pool_id),
        },
    )


def _is_coming(connection: Connection, ctx: Context, agent: Agent, standby: Replica) -> bool:
    """Whether a standby is on its way, or would be launched now."""
    if standby.status is not ReplicaStatus.LAUNCHING:
        return False
    tries = attempts.attempts_of(connection, standby.id)
    is_called = bool(tries) and tries[-1].status != "refused"
    return is_called or not agent.is_postponed(ctx.clock())


def _launch(
    connection: Connection,
    ctx: Context,
    agent: Agent,
    standby: Replica,
    incident: Incident | None,
    outlook: CloudSnapshot,
) -> PlanStep:
    """A standby that is wished for, or on its way."""
    now = ctx.clock()
    tries = attempts.attempts_of(connection, standby.id)
    if tries and tries[-1].status != "refused":
        said = f"{_name(standby.instance_id)} is on its way in {standby.pool_id}"
        if tries[-1].status == "open":
            said = f"the launch in {standby.pool_id} is repeated, since its answer is unknown"
        took, basis = _usual_launch(connection, standby, now)
        age = (now - standby.created_at).total_seconds()
        left = None if took is None else max(0.0, round(took - age, 3))
        return PlanStep("await", said, standby.reason, standby.instance_id, None, left, basis)
    nothing = PlanStep("launch", "no standby can be launched", standby.reason)
    survey = _survey_now(outlook, agent)
    if survey is None:
        assert outlook.problem is not None
        why = launch.cannot_launch(connection, ctx, standby, incident, outlook.problem)
        return replace(nothing, problem=why)
    found = rank_candidates(connection, ctx, agent, incident, survey, tries)
    said_of_it = launch.decide_launch(
        connection, ctx, standby, incident, tries, survey.source, found
    )
    chosen = live_standby(connection, agent.id)
    is_decided = len(attempts.attempts_of(connection, standby.id)) > len(tries)
    if chosen is None or said_of_it is None or not is_decided:
        return replace(nothing, candidates=_ranked(found), problem=said_of_it)
    took, basis = _usual_launch(connection, chosen, now)
    return PlanStep("launch", said_of_it, standby.reason, None, _ranked(found), took, basis)


def _take_ready(connection: Connection, ctx: Context, replica_id: str, now: datetime) -> None:
    launched = read_replica(connection, replica_id)
    assert launched is not None
    if launched.instance_id is None:
        name = f"{NOT_LAUNCHED}{uuid4().hex}"
        change_replica(connection, launched, instance_id=name, launched_at=now)
        launched = read_replica(connection, replica_id)
        assert launched is not None
    launch.mark_ready(connection, ctx, launched, str(launched.pool_id))


def _usual_launch(
    connection: Connection, standby: Replica, now: datetime
) -> tuple[float | None, str]:
    if standby.market is None:
        return None, "nothing was launched yet"
    took = forecast.launch_durations(connection, standby.market, now)
    return typical_duration(took, f"{standby.market} launches")


def _promotion(
    connection: Connection,
    ctx: Context,
    agent_id: str,
    promotion: Promotion,
    reason: str,
    before: Baseline,
) -> list[PlanStep]:
    now = ctx.clock()
    new, old = promotion.new_instance_id, promotion.old_instance_id
    took, basis = typical_duration(before.failovers, "failovers to a standby that was ready")
    said = f"{_name(new)} becomes the primary"
    steps = [PlanStep("promote", said, reason, _id(new), None, took, basis)]
    steps += _cutover(connection, agent_id, promotion, now)
    due = planned_retirements(connection, agent_id)
    if old in due and old not in before.retirements:
        wait = max(0.0, (due[old] - now).total_seconds())
        said = f"{old} is terminated, {wait:.0f} s from then"
        if any(step.step == "cutover" for step in steps):
            said += ", once all that belongs to the agent has followed"
        steps.append(PlanStep("terminate", said, reason, old, None, wait, "a setting"))
    elif old is not None:
        said = f"{old} is left to AWS or its operator"
        steps.append(PlanStep("leave", said, reason, old))
    return steps


def _cutover(
    connection: Connection, agent_id: str, promotion: Promotion, now: datetime
) -> Iterator[PlanStep]:
    """What is to follow the new primary, as the promotion has written it down."""
    cutover = cutover_of_epoch(connection, agent_id, promotion.epoch)
    for step in steps_of(connection, cutover.id) if cutover else []:
        if step.status is StepStatus.SKIPPED:
            yield PlanStep("skip", step_name(step), str(step.error))
            continue
        took, basis = typical_duration(
            forecast.cutover_step_durations(connection, step.kind, now),
            f"steps of kind {step.kind}",
        )
        reason = f"it follows the primary to {_name(promotion.new_instance_id)}"
        yield PlanStep("cutover", step_name(step), reason, None, None, took, basis)


def _rest(
    ctx: Context, agent: Agent, standby: Replica | None, incident: Incident | None, now: datetime
) -> list[PlanStep]:
    """What is waited for, once nothing is left to do."""
    is_there = standby is not None and standby.status is ReplicaStatus.READY
    if agent.is_postponed(now) and not is_there:
        said = f"nothing is tried before {iso(agent.not_before)}"
        return [PlanStep("wait", said, str(agent.put_off_because))]
    if incident is None or incident.kind.is_planned:
        return []
    ttl = ctx.settings.standby_ttl_seconds
    if incident.goal is Goal.STANDBY and standby is not None:
        instance_id = standby.instance_id
        said = (
            f"{_name(instance_id)} stands by; it is released after {ttl:.0f} s "
            "without a termination"
        )
        return [PlanStep("stand_by", said, incident.reason, _id(instance_id))]
    if incident.goal is Goal.MONITOR:
        said = f"nothing is launched; it is over after {ttl:.0f} s without a termination"
        return [PlanStep("monitor", said, incident.reason)]
    return []
