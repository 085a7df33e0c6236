"""A replica's life: its states, the moves between them, and what causes each."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum


class ReplicaType(StrEnum):
    MANUAL = "manual"
    REBALANCE = "automatic-rebalance"
    TERMINATION = "automatic-termination"


class Market(StrEnum):
    SPOT = "spot"
    ON_DEMAND = "on-demand"


class ReplicaStatus(StrEnum):
    LAUNCHING = "launching"  # decided on; an instance may or may not exist yet
    READY = "ready"  # EC2 says running: the agent's standby
    PROMOTED = "promoted"  # is, or was, the agent's primary
    RELEASING = "releasing"  # no longer wanted; its instance is still to be terminated
    TERMINATED = "terminated"  # its instance is gone, or never was
    FAILED = "failed"  # never ran, or vanished while it was a standby


LIVE = frozenset({ReplicaStatus.LAUNCHING, ReplicaStatus.READY})
"""The states of a standby; an agent has at most one replica in them."""

TRANSITIONS: dict[tuple[ReplicaStatus, ReplicaStatus], str] = {
    (ReplicaStatus.LAUNCHING, ReplicaStatus.READY): "EC2 reports the instance running",
    (
        ReplicaStatus.LAUNCHING,
        ReplicaStatus.RELEASING,
    ): "not wanted any more, signalled itself, or too slow",
    (
        ReplicaStatus.LAUNCHING,
        ReplicaStatus.FAILED,
    ): "no pool has capacity, EC2 refuses, or it died on the way",
    (ReplicaStatus.READY, ReplicaStatus.PROMOTED): "it became the agent's primary",
    (ReplicaStatus.READY, ReplicaStatus.RELEASING): "not wanted any more, or signalled itself",
    (ReplicaStatus.READY, ReplicaStatus.FAILED): "its instance vanished",
    (
        ReplicaStatus.RELEASING,
        ReplicaStatus.TERMINATED,
    ): "EC2 took the termination, or there was no instance",
    (ReplicaStatus.PROMOTED, ReplicaStatus.TERMINATED): "retired after a switch, or taken by AWS",
}


class IllegalTransition(Exception):
    """A move that the table does not have: a defect of the caller, never of the data."""


def check_transition(old: ReplicaStatus, new: ReplicaStatus) -> str:
    """Return the cause of a legal move.

    Raises:
        IllegalTransition: when the table does not have it.
    """
    cause = TRANSITIONS.get((old, new))
    if cause is None:
        raise IllegalTransition(f"a {old} replica cannot become {new}")
    return cause


class NotificationKind(StrEnum):
    """What a message tells of; an incident has one message at most of each."""

    RECOMMENDATION = "recommendation"  # the risk is too low to do anything
    DETECTION = "detection"  # an instance is being lost, or is lost, and SEF acts
    SWITCH = "switch"  # the agent has a new primary
    OPERATOR = "operator"  # it cannot go on without a person
    CUTOVER = "cutover"  # what is to follow the new primary does not, without a person
    OUTCOME = "outcome"  # it is over
    ALERT = "alert"  # of no incident


class NotificationSeverity(StrEnum):
    """From which on messages are sent is a setting; in rising order."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


SEVERITIES = list(NotificationSeverity)


class StepKind(StrEnum):
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


OPEN_CUTOVERS = (CutoverStatus.RUNNING, CutoverStatus.NEEDS_OPERATOR)


def plural(count: int, what: str) -> str:
    """As in `1 instance` and `2 instances`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


AGENT_ID_LENGTH = 64
POOL_ID_LENGTH = 128
INSTANCE_ID_LENGTH = 64
IDEMPOTENCY_KEY_LENGTH = 255


class SignalType(StrEnum):
    REBALANCE = "rebalance-recommendation"
    TERMINATION = "termination-notice"
    LOSS = "unannounced-loss"  # found out by SEF itself, never received


ANNOUNCED = (SignalType.REBALANCE, SignalType.TERMINATION)


@dataclass(frozen=True, slots=True)
class Signal:
    """What AWS announced: `signalled_at` is its own time, `terminates_at` the announced end."""

    type: SignalType
    signalled_at: datetime
    terminates_at: datetime | None = None
    instance_id: str | None = None


PRICE_STEP = Decimal("0.00000001")
"""What a report's price is rounded to."""

STORED_STEP = Decimal("0.000000001")
"""What a stored price is rounded to: one digit more, so that the mean of two prices is exact."""


class Source(StrEnum):
    PRIMARY = "primary"
    REPLICA = "replica"


class Flag(StrEnum):
    NORMAL = "normal"
    AVERAGED = "averaged_dual_source"
    DIVERGENT = "divergent_dual_source"
    INTERPOLATED = "interpolated"


class Interpolation(StrEnum):
    LINEAR = "linear"
    PREVIOUS = "previous"


NOTICE = timedelta(seconds=120)
"""What AWS gives between a termination notice and the termination."""


class Goal(StrEnum):
    MONITOR = "monitor"
    STANDBY = "standby"
    SWITCH = "switch"


class IncidentKind(StrEnum):
    """What an incident is about."""

    INTERRUPTION = "interruption"  # AWS announced that it takes the instance
    LOSS = "loss"  # the instance was gone without a word
    DRILL = "drill"  # a planned switchover, to know that it works
    RETURN = "return-to-spot"  # a planned switchover away from on-demand

    @property
    def is_planned(self) -> bool:
        return self in (IncidentKind.DRILL, IncidentKind.RETURN)

    @property
    def is_announced(self) -> bool:
        return self is IncidentKind.INTERRUPTION


LOSING = tuple(kind for kind in IncidentKind if not kind.is_planned)
"""What an instance is lost by."""


class Mode(StrEnum):
    MANUAL = "manual"
    AUTO = "auto"
    EMERGENCY_ONLY = "emergency_only"


class IncidentStatus(StrEnum):
    """Where an incident stands."""

    OPEN = "open"
    NEEDS_OPERATOR = "needs_operator"  # open; what stops it will most likely not go by itself
    DONE = "done"
    RELEASED = "released"
    IGNORED = "ignored"


OPEN_INCIDENTS = (IncidentStatus.OPEN, IncidentStatus.NEEDS_OPERATOR)

_POOL = re.compile(
    r"(?P<type>[a-z0-9-]+\.[a-z0-9-]+)\.(?P<zone>(?P<region>[a-z]{2}(?:-[a-z]+)+-\d+)[a-z0-9-]+)"
)


@dataclass(frozen=True, slots=True, order=True)
class Pool:
    instance_type: str
    zone: str

    def __str__(self) -> str:
        return f"{self.instance_type}.{self.zone}"


def parse_pool(pool_id: str | None) -> Pool | None:
    """Read `m5.large.us-east-1a`; None for ids of another make, which SEF takes as they are."""
    match = _POOL.fullmatch(pool_id or "")
    return Pool(match["type"], match["zone"]) if match else None
