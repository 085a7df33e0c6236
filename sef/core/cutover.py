"""Cutover: in which order what belongs to an agent follows its new primary, and how long each
step is waited for.

The steps are in stages. Those of one stage do not depend on each other, and a stage begins when
nothing in the ones before it is worth waiting for any longer. How much is waited for is a question
of the time that is left to the old primary: with a minute, the new one is registered and awaited;
with seconds, everything is moved at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sef.core.targets import Targets

HURRY_BELOW = timedelta(seconds=30)
"""With less time than this left, nothing is awaited."""

HURRIED_PATIENCE = timedelta(seconds=5)
"""How long what is moved at once is waited for, if it cannot be moved at once."""

RESERVE = timedelta(seconds=15)
"""What is kept of the time left for the moves that come after the waiting."""


class Kind(StrEnum):
    """What a step does; the target says to what."""

    RUNNING = "running"  # EC2 reports the new primary running: nothing is moved before
    WEBHOOK_BEFORE = "webhook-before"
    VOLUME = "volume"
    NETWORK_INTERFACE = "network-interface"
    PRIVATE_IP = "private-ip"
    REGISTER = "register"  # the new primary, in a target group
    HEALTHY = "healthy"  # await it there
    ELASTIC_IP = "elastic-ip"
    DNS = "dns"
    DEREGISTER = "deregister"  # the former primaries, from a target group
    WEBHOOK_AFTER = "webhook-after"


class StepStatus(StrEnum):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"  # out of its time, or refused: nobody waits for it; it is tried again
    SKIPPED = "skipped"  # there was no time for it, or the target was taken away


class CutoverStatus(StrEnum):
    RUNNING = "running"
    NEEDS_OPERATOR = "needs_operator"  # running; a step of it failed
    DONE = "done"
    SUPERSEDED = "superseded"  # the agent has another primary by now


UNFINISHED = (CutoverStatus.RUNNING, CutoverStatus.NEEDS_OPERATOR)

PATIENCE: Mapping[Kind, timedelta] = {
    Kind.RUNNING: timedelta(minutes=5),
    Kind.WEBHOOK_BEFORE: timedelta(seconds=5),
    Kind.VOLUME: timedelta(seconds=60),
    Kind.NETWORK_INTERFACE: timedelta(seconds=60),
    Kind.PRIVATE_IP: timedelta(seconds=15),
    Kind.REGISTER: timedelta(seconds=15),
    Kind.HEALTHY: timedelta(minutes=5),
    Kind.ELASTIC_IP: timedelta(seconds=15),
    Kind.DNS: timedelta(seconds=15),
    Kind.DEREGISTER: timedelta(seconds=15),
    Kind.WEBHOOK_AFTER: timedelta(minutes=1),
}
"""How long a step is tried before it has failed, where the time left allows that."""

CALM: Sequence[Sequence[Kind]] = (
    (Kind.RUNNING,),
    (Kind.WEBHOOK_BEFORE,),
    (Kind.VOLUME, Kind.NETWORK_INTERFACE, Kind.PRIVATE_IP),
    (Kind.REGISTER,),
    (Kind.HEALTHY,),
    (Kind.ELASTIC_IP, Kind.DNS),
    (Kind.DEREGISTER,),
    (Kind.WEBHOOK_AFTER,),
)
HURRIED: Sequence[Sequence[Kind]] = (
    (Kind.RUNNING,),
    (Kind.ELASTIC_IP, Kind.PRIVATE_IP, Kind.DNS, Kind.REGISTER),  # one call, or two
    (Kind.DEREGISTER, Kind.NETWORK_INTERFACE, Kind.VOLUME),  # what is detached takes its time
    (Kind.WEBHOOK_AFTER,),
)
LEFT_OUT = frozenset({Kind.WEBHOOK_BEFORE, Kind.HEALTHY})
"""What a hurried cutover does without."""

WAITED_FOR = frozenset({Kind.WEBHOOK_BEFORE, *CALM[2], *CALM[3], *CALM[4]})
"""What has to be over before the service is handed over; with a deadline, in time for that."""


@dataclass(frozen=True, slots=True)
class Step:
    stage: int
    kind: Kind
    target: Any


@dataclass(frozen=True, slots=True)
class StepState:
    """As much of a stored step as its turn depends on."""

    position: int
    stage: int
    kind: Kind
    status: StepStatus
    not_before: datetime

    @property
    def is_unfinished(self) -> bool:
        # A webhook that was to come before is no use after.
        is_over = self.kind is Kind.WEBHOOK_BEFORE and self.status is StepStatus.FAILED
        return self.status in (StepStatus.PENDING, StepStatus.FAILED) and not is_over


def plan(targets: Targets, left: timedelta | None) -> list[Step]:
    """The steps of a cutover, in order.

    Args:
        left: until the old primary is gone; None when nothing takes it away.
    """
    stages = HURRIED if is_hurried(left) else CALM
    return [
        Step(number, kind, target)
        for number, stage in enumerate(stages)
        for kind in stage
        for target in _targets_of(kind, targets)
    ]


def left_out(targets: Targets, left: timedelta | None) -> list[Step]:
    """The steps that there is no time for; they are written down all the same."""
    if not is_hurried(left):
        return []
    return [
        Step(0, kind, target)
        for kind in (Kind.WEBHOOK_BEFORE, Kind.HEALTHY)
        for target in _targets_of(kind, targets)
    ]


def is_hurried(left: timedelta | None) -> bool:
    return left is not None and left < HURRY_BELOW


def is_wanted(kind: Kind, target: Any, targets: Targets | None) -> bool:
    """Whether the agent still has what a step is about; an operator may have taken it away."""
    return targets is not None and target in list(_targets_of(kind, targets))


def gives_up_at(
    kind: Kind, begun: datetime, deadline: datetime | None, *, hurried: bool
) -> datetime:
    """Until when a step is pending, which those after it wait for. Never before it was begun."""
    own = begun + PATIENCE[kind]
    if hurried:
        return min(own, begun + HURRIED_PATIENCE) if kind in HURRIED[1] else own
    if deadline is None or kind not in WAITED_FOR:
        return own
    return max(begun, min(own, deadline - RESERVE))


def next_step(
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


def serves(steps: Sequence[StepState]) -> bool:
    """Whether the new primary has all that it is to have; the old one may go."""
    return not any(s.is_unfinished for s in steps if s.kind is not Kind.WEBHOOK_AFTER)


def _blocks(step: StepState, deadline: datetime | None) -> bool:
    if step.status is StepStatus.PENDING:
        return True
    if step.status is not StepStatus.FAILED:
        return False
    if step.kind is Kind.RUNNING:
        return True
    # Nothing presses: the old primary serves on until the new one has what it needs.
    is_needed = step.kind in WAITED_FOR and step.kind is not Kind.WEBHOOK_BEFORE
    return deadline is None and is_needed


def _targets_of(kind: Kind, targets: Targets) -> Iterator[Any]:
    webhooks = targets.get("webhooks", {})
    match kind:
        case Kind.RUNNING:
            yield None
        case Kind.WEBHOOK_BEFORE if "before" in webhooks:
            yield webhooks["before"]
        case Kind.WEBHOOK_AFTER if "after" in webhooks:
            yield webhooks["after"]
        case Kind.VOLUME:
            yield from targets.get("volumes", [])
        case Kind.REGISTER | Kind.HEALTHY | Kind.DEREGISTER:
            yield from targets.get("target_groups", [])
        case Kind.NETWORK_INTERFACE | Kind.PRIVATE_IP | Kind.ELASTIC_IP | Kind.DNS:
            target = targets.get(kind.replace("-", "_"))
            if target is not None:
                yield target
