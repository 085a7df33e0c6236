"""The plan of a dry run: its steps in sentences, and their time against the deadline."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent
from sef.clock import iso
from sef.failover.cutover.events import step_name
from sef.failover.cutover.rows import cutover_of_epoch, steps_of
from sef.failover.explain.forecast import Forecast, forecast_cutover_step, forecast_promotion
from sef.failover.incidents.rows import Incident
from sef.failover.policy import CloseIncident, NextStep, Release
from sef.failover.promotion import Promotion
from sef.failover.ranking import Candidate
from sef.failover.standbys.retirements import planned_retirements
from sef.failover.standbys.rows import Replica
from sef.terms import Goal, ReplicaStatus, StepStatus

NOT_LAUNCHED = "dry-run-"
"""Prefix of the IDs of instances that exist in the dry run only."""


@dataclass(frozen=True, slots=True)
class PlanStep:
    """A step of the plan, with the fields of the answer."""

    step: str
    sentence: str
    reason: str
    instance_id: str | None = None
    """None for a step without an instance, and for an instance that would be launched."""
    candidates: Sequence[Mapping[str, Any]] | None = None
    """Of a launch: the pools to try, best first."""
    expected_seconds: float | None = None
    basis: str | None = None
    """The measurements that `expected_seconds` rests on, or the reason why there is none."""
    problem: str | None = None
    """Reason why the plan ends here."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The time until the deadline against the expected time of the plan."""

    deadline: datetime | None
    seconds_left: float | None
    expected_seconds: float | None
    """Until the first promotion; None without one, or if a step before it was never measured."""

    @property
    def is_enough(self) -> bool | None:
        if self.seconds_left is None or self.expected_seconds is None:
            return None
        return self.expected_seconds <= self.seconds_left


@dataclass(frozen=True, slots=True)
class Baseline:
    """Values that are read before the dry run writes its own rows."""

    retirements: Mapping[str, datetime]
    """Time of each planned termination, by instance id."""
    promotion: Forecast


def read_baseline(connection: Connection, agent_id: str, now: datetime) -> Baseline:
    """Read the values that the dry run itself will change."""
    return Baseline(planned_retirements(connection, agent_id), forecast_promotion(connection, now))


def budget(deadline: datetime | None, plan: Sequence[PlanStep], now: datetime) -> Budget:
    """Compare the time until the deadline with the expected time until the promotion."""
    kinds = [step.step for step in plan]
    until_promotion = plan[: kinds.index("promote") + 1] if "promote" in kinds else []
    parts = [step.expected_seconds for step in until_promotion]
    known = [part for part in parts if part is not None]
    expected = round(sum(known), 3) if parts and len(known) == len(parts) else None
    left = None if deadline is None else round((deadline - now).total_seconds(), 3)
    return Budget(deadline, left, expected)


def decided_steps(step: NextStep, standby: Replica | None) -> list[PlanStep]:
    """Return the plan of a decision that is neither a launch nor a promotion."""
    match step:
        case Release(reason):
            instance_id = standby.instance_id if standby else None
            sentence = f"{instance_name(instance_id)} is released"
            return [PlanStep("terminate", sentence, reason, known_id(instance_id))]
        case CloseIncident(outcome, reason):
            return [PlanStep("close", f"the incident is {outcome}", reason)]
        case _:
            return []


def promotion_steps(
    connection: Connection,
    agent_id: str,
    promotion: Promotion,
    reason: str,
    baseline: Baseline,
    now: datetime,
) -> list[PlanStep]:
    """Return the plan of a promotion: the new primary, the cutover, the end of the old primary."""
    promote = PlanStep(
        "promote",
        f"{instance_name(promotion.new_instance_id)} becomes the primary",
        reason,
        known_id(promotion.new_instance_id),
        expected_seconds=baseline.promotion.seconds,
        basis=baseline.promotion.basis,
    )
    steps = [promote, *_cutover_steps(connection, agent_id, promotion, now)]
    old = promotion.old_instance_id
    terminations = planned_retirements(connection, agent_id)
    if old in terminations and old not in baseline.retirements:
        delay = max(0.0, (terminations[old] - now).total_seconds())
        sentence = f"{old} is terminated {delay:.0f} s later"
        if any(step.step == "cutover" for step in steps):
            sentence += ", once all cutover targets have moved"
        steps.append(
            PlanStep("terminate", sentence, reason, old, expected_seconds=delay, basis="a setting")
        )
    elif old is not None:
        steps.append(PlanStep("leave", f"{old} is left to AWS or its operator", reason, old))
    return steps


def final_steps(
    agent: Agent,
    standby: Replica | None,
    incident: Incident | None,
    standby_ttl_seconds: float,
    now: datetime,
) -> list[PlanStep]:
    """Return the last step of a plan: the event that SEF waits for, if it waits for one."""
    is_ready = standby is not None and standby.status is ReplicaStatus.READY
    if agent.is_postponed(now) and not is_ready:
        sentence = f"work is postponed until {iso(agent.not_before)}"
        return [PlanStep("wait", sentence, str(agent.put_off_because))]
    if incident is None or incident.kind.is_planned:
        return []
    time = f"after {standby_ttl_seconds:.0f} s without a termination notice"
    if incident.goal is Goal.STANDBY and standby is not None:
        instance_id = standby.instance_id
        sentence = f"{instance_name(instance_id)} is kept as a standby; it is released {time}"
        return [PlanStep("stand_by", sentence, incident.reason, known_id(instance_id))]
    if incident.goal is Goal.MONITOR:
        sentence = f"nothing is launched; the incident is closed {time}"
        return [PlanStep("monitor", sentence, incident.reason)]
    return []


def candidate_fields(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    return [
        {
            "pool_id": str(candidate.pool),
            "market": candidate.market,
            "risk": candidate.risk,
            "price": None if candidate.price is None else float(candidate.price),
        }
        for candidate in candidates
    ]


def known_id(instance_id: str | None) -> str | None:
    """Return the ID of an instance; None if it exists in the dry run only."""
    return None if instance_id is None or instance_id.startswith(NOT_LAUNCHED) else instance_id


def instance_name(instance_id: str | None) -> str:
    return known_id(instance_id) or "the new standby"


def _cutover_steps(
    connection: Connection, agent_id: str, promotion: Promotion, now: datetime
) -> Iterator[PlanStep]:
    cutover = cutover_of_epoch(connection, agent_id, promotion.epoch)
    reason = f"the cutover targets move to {instance_name(promotion.new_instance_id)}"
    for step in steps_of(connection, cutover.id) if cutover else []:
        if step.status is StepStatus.SKIPPED:
            yield PlanStep("skip", step_name(step), str(step.error))
            continue
        forecast = forecast_cutover_step(connection, step.kind, now)
        yield PlanStep(
            "cutover",
            step_name(step),
            reason,
            expected_seconds=forecast.seconds,
            basis=forecast.basis,
        )
