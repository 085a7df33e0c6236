"""Order of the steps of a cutover, and how long each step is waited for.

The steps are in stages. The steps of one stage do not depend on each other. A stage begins when no
step of an earlier stage is worth waiting for any longer. The wait depends on the time that is left
to the old primary: with a minute, the new primary is registered and awaited; with seconds, all
targets are moved at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sef.failover.cutover.targets import Targets
from sef.terms import StepKind, StepStatus

HURRY_BELOW = timedelta(seconds=30)
"""With less time than this left, nothing is awaited."""

HURRIED_PATIENCE = timedelta(seconds=5)
"""How long what is moved at once is waited for, if it cannot be moved at once."""

RESERVE = timedelta(seconds=15)
"""What is kept of the time left for the moves that come after the waiting."""

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
"""How long a step is tried before it has failed, where the time left allows that."""

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
HURRIED: Sequence[Sequence[StepKind]] = (
    (StepKind.RUNNING,),
    (StepKind.ELASTIC_IP, StepKind.PRIVATE_IP, StepKind.DNS, StepKind.REGISTER),  # one call, or two
    (
        StepKind.DEREGISTER,
        StepKind.NETWORK_INTERFACE,
        StepKind.VOLUME,
    ),  # what is detached takes its time
    (StepKind.WEBHOOK_AFTER,),
)
LEFT_OUT = frozenset({StepKind.WEBHOOK_BEFORE, StepKind.HEALTHY})
"""What a hurried cutover does without."""

WAITED_FOR = frozenset({StepKind.WEBHOOK_BEFORE, *CALM[2], *CALM[3], *CALM[4]})
"""What has to be over before the service is handed over; with a deadline, in time for that."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    stage: int
    kind: StepKind
    target: Any


@dataclass(frozen=True, slots=True)
class StepState:
    """As much of a stored step as its turn depends on."""

    position: int
    stage: int
    kind: StepKind
    status: StepStatus
    not_before: datetime

    @property
    def is_unfinished(self) -> bool:
        # A webhook that was to come before is no use after.
        is_over = self.kind is StepKind.WEBHOOK_BEFORE and self.status is StepStatus.FAILED
        return self.status in (StepStatus.PENDING, StepStatus.FAILED) and not is_over


def plan_steps(targets: Targets, left: timedelta | None) -> list[PlannedStep]:
    """The steps of a cutover, in order.

    Args:
        left: until the old primary is gone; None when nothing takes it away.
    """
    stages = HURRIED if is_hurried(left) else CALM
    return [
        PlannedStep(number, kind, target)
        for number, stage in enumerate(stages)
        for kind in stage
        for target in _targets_of(kind, targets)
    ]


def skipped_steps(targets: Targets, left: timedelta | None) -> list[PlannedStep]:
    """The steps that there is no time for; they are written down all the same."""
    if not is_hurried(left):
        return []
    return [
        PlannedStep(0, kind, target)
        for kind in (StepKind.WEBHOOK_BEFORE, StepKind.HEALTHY)
        for target in _targets_of(kind, targets)
    ]


def is_hurried(left: timedelta | None) -> bool:
    return left is not None and left < HURRY_BELOW


def is_wanted(kind: StepKind, target: Any, targets: Targets | None) -> bool:
    """Whether the agent still has what a step is about; an operator may have taken it away."""
    return targets is not None and target in list(_targets_of(kind, targets))


def times_out_at(
    kind: StepKind, begun: datetime, deadline: datetime | None, *, hurried: bool
) -> datetime:
    """Until when a step is pending, which those after it wait for. Never before it was begun."""
    own = begun + PATIENCE[kind]
    if hurried:
        return min(own, begun + HURRIED_PATIENCE) if kind in HURRIED[1] else own
    if deadline is None or kind not in WAITED_FOR:
        return own
    return max(begun, min(own, deadline - RESERVE))


def next_step_of(
    steps: Sequence[StepState], deadline: datetime | None, now: datetime
) -> StepState | None:
    """The step to try now; None when there is none, or none that is due."""
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
    """When there is something to try again; None when everything is over."""
    due = []
    for stage in sorted({step.stage for step in steps}):
        of_stage = [step for step in steps if step.stage == stage]
        due += [step.not_before for step in of_stage if step.is_unfinished]
        if any(_blocks(step, deadline) for step in of_stage):
            break
    return min(due, default=None)


def traffic_moved(steps: Sequence[StepState]) -> bool:
    """Whether the new primary has all that it is to have; the old one may go."""
    return not any(s.is_unfinished for s in steps if s.kind is not StepKind.WEBHOOK_AFTER)


def _blocks(step: StepState, deadline: datetime | None) -> bool:
    if step.status is StepStatus.PENDING:
        return True
    if step.status is not StepStatus.FAILED:
        return False
    if step.kind is StepKind.RUNNING:
        return True
    # Nothing presses: the old primary serves on until the new one has what it needs.
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
