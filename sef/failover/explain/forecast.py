"""The plan of a dry run: its steps, and whether the time is enough for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from sqlalchemy import Connection, select

from sef.db.tables import cutover_steps as steps
from sef.db.tables import incidents, replica_instances
from sef.failover.instances.ranking import Candidate
from sef.failover.policy import CloseIncident, CreateStandby, NextStep, Promote, Release, Rest
from sef.failover.standbys.rows import Replica
from sef.terms import Market, StepKind, StepStatus


@dataclass(frozen=True, slots=True)
class PlanStep:
    step: str
    sentence: str
    reason: str
    instance_id: str | None = None
    """None also for one that would be launched: it has no id yet."""
    candidates: Sequence[Mapping[str, Any]] | None = None
    """Of a launch: the pools to try, best first."""
    expected_seconds: float | None = None
    basis: str | None = None
    """What the expectation rests on, or why there is none."""
    problem: str | None = None
    """Why the plan cannot go on from here."""


@dataclass(frozen=True, slots=True)
class Budget:
    deadline: datetime | None
    seconds_left: float | None
    expected_seconds: float | None
    """Until the first promotion; None if there is none, or a step before it was never measured."""

    @property
    def is_enough(self) -> bool | None:
        if self.seconds_left is None or self.expected_seconds is None:
            return None
        return self.expected_seconds <= self.seconds_left


def typical_duration(seconds: Sequence[float], what: str) -> tuple[float | None, str]:
    """How long something is expected to take after how long it took, and what that rests on."""
    if not seconds:
        return None, f"no {what} so far"
    if len(seconds) == 1:
        return round(seconds[0], 3), f"the only one of the {what} so far"
    return round(median(seconds), 3), f"the median of the last {len(seconds)} {what}"


def budget(deadline: datetime | None, plan: Sequence[PlanStep], now: datetime) -> Budget:
    """The time there is until the deadline, and the time that the plan takes to promote."""
    kinds = [step.step for step in plan]
    until = plan[: kinds.index("promote") + 1] if "promote" in kinds else []
    parts = [step.expected_seconds for step in until]
    known = [part for part in parts if part is not None]
    expected = round(sum(known), 3) if parts and len(known) == len(parts) else None
    left = None if deadline is None else round((deadline - now).total_seconds(), 3)
    return Budget(deadline, left, expected)


DURATIONS_FROM = timedelta(days=90)
LATEST = 200
"""How many of the latest are looked at."""


def launch_durations(connection: Connection, market: Market, now: datetime) -> Sequence[float]:
    """Seconds from the wish for a standby to the instance that runs."""
    columns = replica_instances.c
    rows = connection.execute(
        select(columns.created_at, columns.ready_at)
        .where(
            columns.ready_at.is_not(None),
            columns.created_at > now - DURATIONS_FROM,
            columns.market == market,
        )
        .order_by(columns.created_at.desc())
        .limit(LATEST)
    )
    return [(row.ready_at - row.created_at).total_seconds() for row in rows]


def promotion_durations(connection: Connection, now: datetime) -> Sequence[float]:
    """Seconds from a termination notice to the promotion of a standby that was ready before."""
    incident, replica = incidents.c, replica_instances.c
    rows = connection.scalars(
        select(incident.failover_time_ms)
        .join(replica_instances, replica.id == incident.replica_id)
        .where(
            incident.termination_at > now - DURATIONS_FROM,
            incident.failover_time_ms.is_not(None),
            replica.ready_at <= incident.termination_at,
        )
        .order_by(incident.termination_at.desc())
        .limit(LATEST)
    )
    return [milliseconds / 1000 for milliseconds in rows if milliseconds is not None]


def cutover_step_durations(
    connection: Connection, kind: StepKind, now: datetime
) -> Sequence[float]:
    """Seconds from the first attempt at a step of a cutover to its end."""
    columns = steps.c
    rows = connection.scalars(
        select(columns.latency_ms)
        .where(
            columns.kind == kind,
            columns.status == StepStatus.DONE,
            columns.finished_at > now - DURATIONS_FROM,
            columns.latency_ms.is_not(None),
        )
        .order_by(columns.finished_at.desc())
        .limit(LATEST)
    )
    return [milliseconds / 1000 for milliseconds in rows if milliseconds is not None]


NOT_LAUNCHED = "rehearsed-"
"""Begins the ids of instances that are taken to run."""


def _described(step: NextStep, standby: Replica | None) -> list[PlanStep]:
    match step:
        case Release(reason):
            instance_id = standby.instance_id if standby else None
            said = f"{_name(instance_id)} is released"
            return [PlanStep("terminate", said, reason, _id(instance_id))]
        case CloseIncident(outcome, reason):
            return [PlanStep("close", f"the incident is {outcome}", reason)]
        case CreateStandby() | Promote() | Rest():
            return []  # told by what comes of it


def _ranked(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
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
