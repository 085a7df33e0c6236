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

from sef.candidates import NoLaunchSource, Survey
from sef.clock import Clock
from sef.cloud.errors import CloudError
from sef.config import Settings
from sef.core.cutover import StepStatus
from sef.core.plan import PlanStep, budget, usually
from sef.core.policy import CloseIncident, CreateStandby, Goal, Promote, Release, Rest, Step
from sef.core.pools import Candidate, parse_pool
from sef.core.replica import Status
from sef.cutover import step_name
from sef.launching import Launcher
from sef.promotion import Promotion
from sef.reconcile import STEPS, Reconciler
from sef.sightings import Sight, told
from sef.store import cutovers, durations, fleet, launches, replicas
from sef.store.database import Database
from sef.store.events import iso
from sef.store.fleet import Agent
from sef.store.incidents import Incident
from sef.store.replicas import Replica
from sef.target_checks import Looked, TargetChecks
from sef.watching import does_not_tell

T = TypeVar("T")
Answer = dict[str, Any]
NOT_LAUNCHED = "rehearsed-"
"""Begins the ids of instances that are taken to run."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What EC2 said before the rehearsal."""

    primary: str | None
    survey: Survey | None
    problem: NoLaunchSource | CloudError | None
    """Why it told nothing of what to launch."""
    lost: tuple[Replica, str] | None
    """A ready standby that does not run any more."""
    targets: Looked


@dataclass(frozen=True, slots=True)
class Before:
    """What the rows said before the rehearsal added its own."""

    retirements: Mapping[str, datetime]
    failovers: Sequence[float]
    """How long those have taken so far, in seconds."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    answer: Answer
    course: Answer
    """What every dry run answers with: `plan`, `budget` and `warnings`."""


@dataclass(frozen=True, slots=True)
class Rehearsals:
    database: Database
    reconciler: Reconciler
    launcher: Launcher
    checks: TargetChecks
    settings: Settings
    clock: Clock

    def rehearse(
        self,
        agent_id: str,
        begin: Callable[[Connection], T],
        tell: Callable[[Connection, T], Answer],
        *,
        must_run: bool = False,
    ) -> Rehearsed:
        """Play a call through, and undo it.

        Args:
            begin: what the call itself writes.
            tell: the answer, once all is decided that can be decided at once.
            must_run: whether the call is refused when EC2 cannot tell that the standby runs.

        Raises:
            SefError: what the call itself would raise.
        """
        outlook = self._look_out(agent_id, must_run)

        def begun(connection: Connection) -> T:
            # A switch looks at the standby before it writes anything, a signal is written first.
            if must_run:
                self._lose(connection, outlook)
            result = begin(connection)
            self._lose(connection, outlook)
            return result

        return self.database.rehearse(lambda c: self._play(c, agent_id, begun, tell, outlook))

    def _lose(self, connection: Connection, outlook: Outlook) -> None:
        if outlook.lost is not None:
            standby, why = outlook.lost
            self.reconciler.watch.move_in(connection, standby, Status.FAILED, why)

    def _look_out(self, agent_id: str, must_run: bool) -> Outlook:
        agent, standby = self.database.read(
            lambda c: (fleet.read_agent(c, agent_id), replicas.live_standby(c, agent_id))
        )
        lost = None
        if standby is not None and standby.status is Status.READY and standby.instance_id:
            try:
                shown = self.reconciler.watch.cloud.instances([standby.instance_id])
                instance = shown.get(standby.instance_id)
                if instance is not None and told(instance) is Sight.GONE:
                    lost = (standby, f"its instance is {instance.ec2_state}")
                elif must_run and told(instance) is not Sight.RUNS:
                    raise does_not_tell(standby)
            except CloudError:
                if must_run:
                    raise
        targets = self.checks.look(agent)
        try:
            survey = self.launcher.candidates.survey(agent)
            return Outlook(agent.instance_id, survey, None, lost, targets)
        except (NoLaunchSource, CloudError) as error:
            return Outlook(agent.instance_id, None, error, lost, targets)

    def _survey_now(self, outlook: Outlook, agent: Agent) -> Survey | None:
        """What EC2 said, for the primary that the agent has by now."""
        if outlook.survey is None or agent.instance_id == outlook.primary:
            return outlook.survey
        elsewhere = replace(outlook.survey.source, primary_pool=parse_pool(agent.pool_id))
        return replace(outlook.survey, source=elsewhere)

    def _play(
        self,
        connection: Connection,
        agent_id: str,
        begin: Callable[[Connection], T],
        tell: Callable[[Connection, T], Answer],
        outlook: Outlook,
    ) -> Rehearsed:
        now = self.clock()
        before = Before(
            replicas.planned_retirements(connection, agent_id),
            durations.promotions(connection, now),
        )
        begun = begin(connection)
        plan: list[PlanStep] = []
        if isinstance(begun, Promotion):
            plan += self._promotion(connection, agent_id, begun, "an operator switched", before)
        answer: Answer | None = None
        deadline = None
        for _ in range(STEPS):
            step, agent, standby_now, incident = self.reconciler.next(connection, agent_id)
            if incident is not None and incident.kind.is_announced:
                deadline = incident.deadline
            if not isinstance(step, Rest):
                _, promotion = self.reconciler.apply(connection, agent_id, None)
                if promotion is not None:
                    plan += self._promotion(connection, agent_id, promotion, step.reason, before)
                else:
                    plan += _told(step, standby_now)
                continue
            if standby_now is None or not self._is_coming(connection, agent, standby_now):
                plan += self._rest(agent, standby_now, incident, now)
                break
            plan.append(self._launch(connection, agent, standby_now, incident, outlook))
            # The call answers before the instance runs, but after it was found to be impossible.
            answer = answer or tell(connection, begun)
            if plan[-1].problem is not None:
                break
            self._take_ready(connection, standby_now.id, now)
        answer = answer or tell(connection, begun)
        time = budget(deadline, plan, now)
        # It has another primary by now, where the plan promotes one.
        pool_id = fleet.read_agent(connection, agent_id).pool_id
        return Rehearsed(
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

    def _is_coming(self, connection: Connection, agent: Agent, standby: Replica) -> bool:
        """Whether a standby is on its way, or would be launched now."""
        if standby.status is not Status.LAUNCHING:
            return False
        tries = launches.attempts(connection, standby.id)
        is_called = bool(tries) and tries[-1].status != "refused"
        return is_called or not agent.is_postponed(self.clock())

    def _launch(
        self,
        connection: Connection,
        agent: Agent,
        standby: Replica,
        incident: Incident | None,
        outlook: Outlook,
    ) -> PlanStep:
        """A standby that is wished for, or on its way."""
        now = self.clock()
        tries = launches.attempts(connection, standby.id)
        if tries and tries[-1].status != "refused":
            said = f"{_name(standby.instance_id)} is on its way in {standby.pool_id}"
            if tries[-1].status == "open":
                said = f"the launch in {standby.pool_id} is repeated, since its answer is unknown"
            took, basis = self._usual_launch(connection, standby, now)
            age = (now - standby.created_at).total_seconds()
            left = None if took is None else max(0.0, round(took - age, 3))
            return PlanStep("await", said, standby.reason, standby.instance_id, None, left, basis)
        nothing = PlanStep("launch", "no standby can be launched", standby.reason)
        survey = self._survey_now(outlook, agent)
        if survey is None:
            assert outlook.problem is not None
            why = self.launcher.cannot_launch(connection, standby, incident, outlook.problem)
            return replace(nothing, problem=why)
        found = self.launcher.candidates.rank(connection, agent, incident, survey, tries)
        said_of_it = self.launcher.decide_launch(
            connection, standby, incident, tries, survey.source, found
        )
        chosen = replicas.live_standby(connection, agent.id)
        is_decided = len(launches.attempts(connection, standby.id)) > len(tries)
        if chosen is None or said_of_it is None or not is_decided:
            return replace(nothing, candidates=_ranked(found), problem=said_of_it)
        took, basis = self._usual_launch(connection, chosen, now)
        return PlanStep("launch", said_of_it, standby.reason, None, _ranked(found), took, basis)

    def _take_ready(self, connection: Connection, replica_id: str, now: datetime) -> None:
        launched = replicas.read_replica(connection, replica_id)
        assert launched is not None
        if launched.instance_id is None:
            name = f"{NOT_LAUNCHED}{uuid4().hex}"
            replicas.change_replica(connection, launched, instance_id=name, launched_at=now)
            launched = replicas.read_replica(connection, replica_id)
            assert launched is not None
        self.launcher.take_ready(connection, launched, str(launched.pool_id))

    def _usual_launch(
        self, connection: Connection, standby: Replica, now: datetime
    ) -> tuple[float | None, str]:
        if standby.market is None:
            return None, "nothing was launched yet"
        took = durations.launches(connection, standby.market, now)
        return usually(took, f"{standby.market} launches")

    def _promotion(
        self,
        connection: Connection,
        agent_id: str,
        promotion: Promotion,
        reason: str,
        before: Before,
    ) -> list[PlanStep]:
        now = self.clock()
        new, old = promotion.new_instance_id, promotion.old_instance_id
        took, basis = usually(before.failovers, "failovers to a standby that was ready")
        said = f"{_name(new)} becomes the primary"
        steps = [PlanStep("promote", said, reason, _id(new), None, took, basis)]
        steps += self._cutover(connection, agent_id, promotion, now)
        due = replicas.planned_retirements(connection, agent_id)
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
        self, connection: Connection, agent_id: str, promotion: Promotion, now: datetime
    ) -> Iterator[PlanStep]:
        """What is to follow the new primary, as the promotion has written it down."""
        cutover = cutovers.cutover_of_epoch(connection, agent_id, promotion.epoch)
        for step in cutovers.steps_of(connection, cutover.id) if cutover else []:
            if step.status is StepStatus.SKIPPED:
                yield PlanStep("skip", step_name(step), str(step.error))
                continue
            took, basis = usually(
                durations.cutover_steps(connection, step.kind, now), f"steps of kind {step.kind}"
            )
            reason = f"it follows the primary to {_name(promotion.new_instance_id)}"
            yield PlanStep("cutover", step_name(step), reason, None, None, took, basis)

    def _rest(
        self, agent: Agent, standby: Replica | None, incident: Incident | None, now: datetime
    ) -> list[PlanStep]:
        """What is waited for, once nothing is left to do."""
        is_there = standby is not None and standby.status is Status.READY
        if agent.is_postponed(now) and not is_there:
            said = f"nothing is tried before {iso(agent.not_before)}"
            return [PlanStep("wait", said, str(agent.put_off_because))]
        if incident is None or incident.kind.is_planned:
            return []
        ttl = self.settings.standby_ttl
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


def _told(step: Step, standby: Replica | None) -> list[PlanStep]:
    match step:
        case Release(reason):
            instance_id = standby.instance_id if standby else None
            said = f"{_name(instance_id)} is released"
            return [PlanStep("terminate", said, reason, _id(instance_id))]
        case CloseIncident(outcome, reason):
            return [PlanStep("close", f"the incident is {outcome}", reason)]
        case CreateStandby() | Promote() | Rest():
            return []  # told by what comes of it


def _ranked(candidates: Sequence[Candidate]) -> list[Answer]:
    return [
        {
            "pool_id": str(candidate.pool),
            "market": candidate.market,
            "risk": candidate.risk,
            "price": None if candidate.price is None else float(candidate.price),
        }
        for candidate in candidates
    ]


def _id(instance_id: str | None) -> str | None:
    """One that would be launched has none yet."""
    return None if instance_id is None or instance_id.startswith(NOT_LAUNCHED) else instance_id


def _name(instance_id: str | None) -> str:
    return _id(instance_id) or "the new standby"
