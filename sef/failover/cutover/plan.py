"""The order of a cutover's steps, and the time that each step may delay the steps after it.

The steps are in stages. The steps of one stage do not depend on each other. A stage begins when no
step of an earlier stage blocks it: a blocking step is pending or, in some cases, failed. The
time-outs depend on the time that is left to the old primary: with a minute, SEF registers the new
primary and waits until it is healthy; with seconds, it moves all targets at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sef.failover.cutover.targets import Targets
from sef.terms import StepKind, StepStatus

HURRY_BELOW = timedelta(seconds=30)
"""Time before the deadline below which a cutover takes the steps of `HURRIED`."""

HURRIED_PATIENCE = timedelta(seconds=5)
"""Time-out of the steps that a hurried cutover makes first."""

RESERVE = timedelta(seconds=15)
"""Time before the deadline that is kept for the steps that come after `WAITED_FOR`."""

PATIENCE: Mapping[StepKind, timedelta] = {
    StepKind.RUNNING: timedelta(minutes=5),
    StepKind.WEBHOOK_BEFORE: timedelta(seconds=5),
    StepKind.VOLUME: timedelta(seconds=60),
    StepKind.NETWORK_INTERFACE: timedelta(seconds=60),
    StepKind.PRIVATE_IP: timedelta(seconds=15),
    StepKind.REGISTER: timedelta(seconds=15),
    StepKind.HEALTHY: timedelta(minutes=5),
    StepKind.ELASTIC_IP: timedelta(seconds=15),
    StepKind.DNS: timedelta(seconds=15),
    StepKind.DEREGISTER: timedelta(seconds=15),
    StepKind.WEBHOOK_AFTER: timedelta(minutes=1),
}
"""Time-out of each step, from its first attempt, if the deadline allows it."""

CALM: Sequence[Sequence[StepKind]] = (
    (StepKind.RUNNING,),
    (StepKind.WEBHOOK_BEFORE,),
    (StepKind.VOLUME, StepKind.NETWORK_INTERFACE, StepKind.PRIVATE_IP),
    (StepKind.REGISTER,),
    (StepKind.HEALTHY,),
    (StepKind.ELASTIC_IP, StepKind.DNS),
    (StepKind.DEREGISTER,),
    (StepKind.WEBHOOK_AFTER,),
)
"""Stages of a cutover without a deadline, or with enough time before it."""

HURRIED: Sequence[Sequence[StepKind]] = (
    (StepKind.RUNNING,),
    # One or two calls each.
    (StepKind.ELASTIC_IP, StepKind.PRIVATE_IP, StepKind.DNS, StepKind.REGISTER),
    # Detaching an interface or a volume takes longer.
    (StepKind.DEREGISTER, StepKind.NETWORK_INTERFACE, StepKind.VOLUME),
    (StepKind.WEBHOOK_AFTER,),
)
"""Stages of a cutover with seconds left."""

SKIPPED_IN_HURRY = (StepKind.WEBHOOK_BEFORE, StepKind.HEALTHY)
"""Steps that a hurried cutover skips."""

WAITED_FOR = frozenset({StepKind.WEBHOOK_BEFORE, *CALM[2], *CALM[3], *CALM[4]})
"""Steps that have to end before the Elastic IP and the record move, `RESERVE` before a deadline."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step of a cutover that begins, with the number of its stage."""

    stage: int
    kind: StepKind
    target: Any


@dataclass(frozen=True, slots=True)
class StepState:
    """The columns of a step that its order depends on."""

    position: int
    stage: int
    kind: StepKind
    status: StepStatus
    not_before: datetime

    @property
    def is_unfinished(self) -> bool:
        # A failed `before` webhook is not sent again.
        is_given_up = self.kind is StepKind.WEBHOOK_BEFORE and self.status is StepStatus.FAILED
        return self.status in (StepStatus.PENDING, StepStatus.FAILED) and not is_given_up


def plan_steps(targets: Targets, left: timedelta | None) -> list[PlannedStep]:
    """Return the steps of a cutover, in order.

    Args:
        left: time until the old primary is gone; None without a deadline.
    """
    stages = HURRIED if is_hurried(left) else CALM
    return [
        PlannedStep(number, kind, target)
        for number, stage in enumerate(stages)
        for kind in stage
        for target in _targets_of(kind, targets)
    ]


def skipped_steps(targets: Targets, left: timedelta | None) -> list[PlannedStep]:
    """Return the steps that are recorded as skipped because there is no time for them."""
    if not is_hurried(left):
        return []
    return [
        PlannedStep(0, kind, target)
        for kind in SKIPPED_IN_HURRY
        for target in _targets_of(kind, targets)
    ]


def is_hurried(left: timedelta | None) -> bool:
    """Return True if the time left is too short for the steps of `CALM`."""
    return left is not None and left < HURRY_BELOW


def is_wanted(kind: StepKind, target: Any, targets: Targets | None) -> bool:
    """Return False if an operator has removed the target of a step from the agent."""
    return targets is not None and target in list(_targets_of(kind, targets))


def times_out_at(
    kind: StepKind, started_at: datetime, deadline: datetime | None, *, hurried: bool
) -> datetime:
    """Return the time from which an unsuccessful step is failed instead of pending.

    It is never before `started_at`.
    """
    normally = started_at + PATIENCE[kind]
    if hurried:
        return min(normally, started_at + HURRIED_PATIENCE) if kind in HURRIED[1] else normally
    if deadline is None or kind not in WAITED_FOR:
        return normally
    return max(started_at, min(normally, deadline - RESERVE))


def next_step_of(
    steps: Sequence[StepState], deadline: datetime | None, now: datetime
) -> StepState | None:
    """Return the step to try now; None if no step is due.

    Pending steps come before failed ones.
    """
    failed = None
    for stage in sorted({step.stage for step in steps}):
        of_stage = [step for step in steps if step.stage == stage]
        for step in of_stage:
            if not step.is_unfinished or step.not_before > now:
                continue
            if step.status is StepStatus.PENDING:
                return step
            failed = failed or step
        if any(_blocks(step, deadline) for step in of_stage):
            break
    return failed


def next_due(steps: Sequence[StepState], deadline: datetime | None) -> datetime | None:
    """Return the time of the next attempt of a step; None if all steps are over."""
    due = []
    for stage in sorted({step.stage for step in steps}):
        of_stage = [step for step in steps if step.stage == stage]
        due += [step.not_before for step in of_stage if step.is_unfinished]
        if any(_blocks(step, deadline) for step in of_stage):
            break
    return min(due, default=None)


def traffic_moved(steps: Sequence[StepState]) -> bool:
    """Return True if every step but the `after` webhook is over, so the old primary may end."""
    return not any(s.is_unfinished for s in steps if s.kind is not StepKind.WEBHOOK_AFTER)


def _blocks(step: StepState, deadline: datetime | None) -> bool:
    if step.status is StepStatus.PENDING:
        return True
    if step.status is not StepStatus.FAILED:
        return False
    if step.kind is StepKind.RUNNING:
        return True
    # Without a deadline the old primary keeps serving until the new one has what it needs.
    is_needed = step.kind in WAITED_FOR and step.kind is not StepKind.WEBHOOK_BEFORE
    return deadline is None and is_needed


def _targets_of(kind: StepKind, targets: Targets) -> Iterator[Any]:
    webhooks = targets.get("webhooks", {})
    match kind:
        case StepKind.RUNNING:
            yield None
        case StepKind.WEBHOOK_BEFORE if "before" in webhooks:
            yield webhooks["before"]
        case StepKind.WEBHOOK_AFTER if "after" in webhooks:
            yield webhooks["after"]
        case StepKind.VOLUME:
            yield from targets.get("volumes", [])
        case StepKind.REGISTER | StepKind.HEALTHY | StepKind.DEREGISTER:
            yield from targets.get("target_groups", [])
        case StepKind.NETWORK_INTERFACE | StepKind.PRIVATE_IP | StepKind.ELASTIC_IP | StepKind.DNS:
            target = targets.get(kind.replace("-", "_"))
            if target is not None:
                yield target
