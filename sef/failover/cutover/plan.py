"""The order of a cutover's steps, and the time that each step may delay the steps after it.

The steps are in stages. The steps of one stage do not depend on each other. A step is due when no
step of an earlier stage blocks it: a blocking step is pending or, in some cases, failed. The order
and the time-outs depend on the time that is left to the instance that holds the target of the step:
with a minute, SEF registers the new primary and waits until it is healthy; with seconds, it moves
the target at once. The steps of one cutover can thus have different orders. Nothing of this is
stored but the end of the holder: it is computed again in each round.
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

TOLD_WHEN_THROTTLED_FOR = timedelta(minutes=10)
"""Time after which a step that AWS throttles counts as failed, if there is no deadline."""

LONGEST_DELAY = timedelta(minutes=2)
"""Time that is longer than any delay between two attempts of a step."""

LOOK_EVERY = timedelta(seconds=5)
"""Time between two looks at the former primaries, while a step waits."""

LOOK_LATER_EVERY = timedelta(seconds=30)
"""The same time in a cutover that is older than `LOOK_OFTEN_FOR`."""

LOOK_OFTEN_FOR = timedelta(minutes=10)

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
    StepKind.ROUTE: timedelta(seconds=15),
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
    (StepKind.ELASTIC_IP, StepKind.DNS, StepKind.ROUTE),
    (StepKind.DEREGISTER,),
    (StepKind.WEBHOOK_AFTER,),
)
"""Stages of a cutover without a deadline, or with enough time before it."""

HURRIED: Sequence[Sequence[StepKind]] = (
    (StepKind.RUNNING,),
    # One or two calls each.
    (
        StepKind.ELASTIC_IP,
        StepKind.PRIVATE_IP,
        StepKind.DNS,
        StepKind.ROUTE,
        StepKind.REGISTER,
    ),
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
    """The columns of a step that its order depends on.

    Attributes:
        not_before: earliest time of the next attempt.
        ends_at: end of the instance that holds the target; None: no end of it is known.
        is_hurried: seconds were left when the end became known.
        is_waiting: AWS throttled the last attempt, or the step waits on purpose: it stays pending
            beyond its time-out.
        after: kinds of steps whose targets carry this one with them.
        goes_back: the target was taken from its holder and refused, so it goes back first.
    """

    position: int
    kind: StepKind
    status: StepStatus
    not_before: datetime
    started_at: datetime | None = None
    ends_at: datetime | None = None
    is_hurried: bool = False
    is_waiting: bool = False
    after: frozenset[StepKind] = frozenset()
    goes_back: bool = False

    @property
    def is_unfinished(self) -> bool:
        # A failed `before` webhook is not sent again.
        is_given_up = self.kind is StepKind.WEBHOOK_BEFORE and self.status is StepStatus.FAILED
        return self.status in (StepStatus.PENDING, StepStatus.FAILED) and not is_given_up

    def is_due(self, now: datetime) -> bool:
        """Return True if the step may be tried now.

        A time farther off than any delay was written before the clock was set back.
        """
        return self.is_unfinished and not now < self.not_before <= now + LONGEST_DELAY


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


def wanted_steps(targets: Targets | None) -> list[tuple[StepKind, Any]]:
    """Return the kind and the target of each step that an agent's present targets ask for."""
    if not targets:
        return []
    return [
        (kind, target) for stage in CALM for kind in stage for target in _targets_of(kind, targets)
    ]


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


def throttled_until(started_at: datetime, deadline: datetime | None) -> datetime:
    """Return the time from which a throttled step is failed instead of pending.

    A throttled step is only slow. An operator is asked for help once the deadline is in danger.
    """
    if deadline is None:
        return started_at + TOLD_WHEN_THROTTLED_FOR
    return max(started_at + HURRIED_PATIENCE, deadline - RESERVE)


def is_ready(steps: Sequence[StepState], step: StepState, now: datetime) -> bool:
    """Return True if a step may be tried now, even if another one comes before it."""
    return step.is_due(now) and not any(_blocks(other, step, now) for other in steps)


def next_step_of(steps: Sequence[StepState], now: datetime) -> StepState | None:
    """Return the step to try now; None if no step is due.

    A target that goes back to its holder comes first. Pending steps come before failed ones, and
    steps with an end before those without.
    """
    ready = [step for step in steps if is_ready(steps, step, now)]
    return min(
        ready,
        key=lambda step: (
            not step.goes_back,
            step.status is StepStatus.FAILED,
            step.ends_at is None,
            stage_of(step.kind, hurried=step.is_hurried),
            step.position,
        ),
        default=None,
    )


def next_due(steps: Sequence[StepState], now: datetime) -> datetime | None:
    """Return the time of the next attempt of a step; None if all steps are over."""
    due = []
    for step in steps:
        if not step.is_unfinished:
            continue
        blocking = [other for other in steps if _blocks(other, step, now)]
        if not blocking:
            due.append(now if step.is_due(now) else step.not_before)
        elif step.ends_at is not None and step.ends_at - RESERVE > now:
            due.append(step.ends_at - RESERVE)
    return min(due, default=None)


def next_look(started_at: datetime, looked_at: datetime | None, now: datetime) -> datetime:
    """Return the time of the next look at the former primaries."""
    if looked_at is None or looked_at > now:
        return now
    is_young = looked_at - started_at < LOOK_OFTEN_FOR
    return looked_at + (LOOK_EVERY if is_young else LOOK_LATER_EVERY)


def traffic_moved(steps: Sequence[StepState]) -> bool:
    """Return True if every step but the `after` webhook is over, so the old primary may end."""
    return not any(s.is_unfinished for s in steps if s.kind is not StepKind.WEBHOOK_AFTER)


def stage_of(kind: StepKind, *, hurried: bool) -> int:
    """Return the number of the stage of a step; the stages begin at 0."""
    stages = HURRIED if hurried else CALM
    return next((number for number, stage in enumerate(stages) if kind in stage), 0)


def _blocks(other: StepState, step: StepState, now: datetime) -> bool:
    """Return True if a step has to wait for another one."""
    if not other.is_unfinished or other.position == step.position:
        return False
    hurried = step.is_hurried
    if (hurried and other.kind in SKIPPED_IN_HURRY) or step.kind in other.after:
        return False
    is_earlier = stage_of(other.kind, hurried=hurried) < stage_of(step.kind, hurried=hurried)
    if not is_earlier and other.kind not in step.after:
        return False
    if other.kind is StepKind.RUNNING:
        return True
    if step.ends_at is None or step.kind is StepKind.WEBHOOK_AFTER:
        return other.status is StepStatus.PENDING or _is_needed(other, step)
    if other.status is StepStatus.FAILED or (hurried and not other.is_hurried):
        return False
    # A step whose own holder lives has more patience than this step has time.
    times_out = times_out_at(other.kind, other.started_at or now, step.ends_at, hurried=hurried)
    return now < times_out or (other.ends_at == step.ends_at and not other.is_waiting)


def _is_needed(other: StepState, step: StepState) -> bool:
    # Without an end the old primary keeps serving until the new one has what it needs.
    return (
        step.ends_at is None
        and other.kind in WAITED_FOR
        and other.kind is not StepKind.WEBHOOK_BEFORE
    )


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
        case StepKind.ROUTE:
            yield from targets.get("routes", [])
        case StepKind.REGISTER | StepKind.HEALTHY | StepKind.DEREGISTER:
            yield from targets.get("target_groups", [])
        case StepKind.NETWORK_INTERFACE | StepKind.PRIVATE_IP | StepKind.ELASTIC_IP | StepKind.DNS:
            target = targets.get(kind.replace("-", "_"))
            if target is not None:
                yield target
