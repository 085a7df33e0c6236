"""The plan of a dry run: its steps, and whether the time is enough for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any


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


def usually(seconds: Sequence[float], what: str) -> tuple[float | None, str]:
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
