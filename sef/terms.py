"""The glossary: SEF's terms, their values, and the statuses that may follow each other.

docs/glossary.md explains the same terms to readers; a test holds its tables equal to these enums.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

# Ids and pools

AGENT_ID_LENGTH = 64
POOL_ID_LENGTH = 128
INSTANCE_ID_LENGTH = 64
IDEMPOTENCY_KEY_LENGTH = 255

LONGEST_SPAN = 31_536_000
"""Maximum of every time that is set, in seconds: a year. Far longer would overflow a `datetime`."""

_POOL = re.compile(
    r"(?P<type>[a-z0-9-]+\.[a-z0-9-]+)\.(?P<zone>(?P<region>[a-z]{2}(?:-[a-z]+)+-\d+)[a-z0-9-]+)"
)


@dataclass(frozen=True, slots=True, order=True)
class Pool:
    """A spot pool: an instance type in an availability zone."""

    instance_type: str
    zone: str

    def __str__(self) -> str:
        return f"{self.instance_type}.{self.zone}"


def parse_pool(pool_id: str | None) -> Pool | None:
    """Read a pool id such as `m5.large.us-east-1a`.

    Return None for an id of another form: SEF stores prices under any id, but launches only in a
    pool of which it knows the type and the zone.
    """
    match = _POOL.fullmatch(pool_id or "")
    return Pool(match["type"], match["zone"]) if match else None


class Market(StrEnum):
    """The way an instance is bought."""

    SPOT = "spot"
    ON_DEMAND = "on-demand"


# Prices

PRICE_STEP = Decimal("0.00000001")
"""Precision of a report's price."""

STORED_STEP = Decimal("0.000000001")
"""Precision of a stored price: one digit more, so that the mean of two prices is exact."""


class LaunchAway(StrEnum):
    """When SEF launches where a cutover target cannot follow: `SEF_LAUNCH_AWAY_FROM_TARGETS`."""

    EMERGENCY = "emergency"
    ALWAYS = "always"
    NEVER = "never"


class Source(StrEnum):
    """The instance that reported a price."""

    PRIMARY = "primary"
    REPLICA = "replica"


class Flag(StrEnum):
    """The origin of a point's price."""

    NORMAL = "normal"  # one observation
    AVERAGED = "averaged_dual_source"  # the mean of a pair
    DIVERGENT = "divergent_dual_source"  # the primary's price of a pair that differs too much
    INTERPOLATED = "interpolated"  # filled into a gap


class Interpolation(StrEnum):
    """The method by which a gap is filled."""

    LINEAR = "linear"  # on the straight line between the two points around the gap
    PREVIOUS = "previous"  # with the price of the point before the gap


# Signals and incidents

UNNAMED = ""
"""Stands for the instance of reports that name none."""

NOTICE = timedelta(seconds=120)
"""The time between a termination notice and the termination, by AWS's promise."""


class SignalType(StrEnum):
    """The event that a signal reports."""

    REBALANCE = "rebalance-recommendation"  # AWS: the risk of an interruption is elevated
    TERMINATION = "termination-notice"  # AWS: the instance is terminated, normally in two minutes
    LOSS = "unannounced-loss"  # detected by SEF itself, never received


ANNOUNCED = (SignalType.REBALANCE, SignalType.TERMINATION)
"""The signals that SEF receives."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal about one instance.

    Attributes:
        signalled_at: the time of the signal by AWS's clock, or its arrival if `is_dated` is False.
        terminates_at: the announced time of the termination.
        instance_id: the instance, or None if the signal names none.
    """

    type: SignalType
    signalled_at: datetime
    terminates_at: datetime | None = None
    instance_id: str | None = None
    is_dated: bool = True
    """False if the signal came without a usable time."""


class IncidentKind(StrEnum):
    """The reason for which an incident was opened."""

    INTERRUPTION = (
        "interruption"  # AWS announced that it terminates, or may terminate, the instance
    )
    LOSS = "loss"  # the instance was lost without an announcement
    DRILL = "drill"  # a planned switchover that tests the failover
    RETURN = "return-to-spot"  # a planned switchover from on-demand to spot

    @property
    def is_planned(self) -> bool:
        return self in (IncidentKind.DRILL, IncidentKind.RETURN)

    @property
    def is_announced(self) -> bool:
        return self is IncidentKind.INTERRUPTION


LOSING = tuple(kind for kind in IncidentKind if not kind.is_planned)
"""The kinds of incident in which an agent loses its instance."""


class Goal(StrEnum):
    """The state that SEF wants for an incident; in rising order, and a goal never falls."""

    MONITOR = "monitor"  # the risk is below the threshold: launch nothing, watch the instance
    STANDBY = "standby"  # a standby must be ready
    SWITCH = "switch"  # a standby must become the primary


class IncidentStatus(StrEnum):
    """The progress of an incident."""

    OPEN = "open"  # SEF works on it, or watches the instance
    NEEDS_OPERATOR = "needs_operator"
    """Open, but stuck: SEF keeps retrying, and most likely an operator must remove the cause."""
    DONE = (
        "done"  # the agent has another primary, or another standby after a signal for its standby
    )
    RELEASED = "released"
    """Closed without a switch: no termination followed, no standby was available for a planned
    switchover, or a planned switchover gave way to an interruption or a loss."""
    IGNORED = "ignored"  # the signal was not about the agent's primary or standby


OPEN_INCIDENTS = (IncidentStatus.OPEN, IncidentStatus.NEEDS_OPERATOR)
"""The statuses in which SEF still works on an incident."""

# Replicas


class ReplicaType(StrEnum):
    """The reason for which a replica was launched."""

    MANUAL = "manual"  # manual replica mode keeps a standby
    REBALANCE = "automatic-rebalance"  # a recommendation, a planned switchover, or probation
    TERMINATION = "automatic-termination"  # the agent lost its primary and had no standby


class ReplicaStatus(StrEnum):
    """The progress of a replica, from the decision to launch it to its end."""

    LAUNCHING = "launching"  # SEF decided to launch it; its instance may or may not exist yet
    READY = "ready"  # EC2 reports its instance as running: it is the agent's standby
    PROMOTED = "promoted"  # it is, or was, the agent's primary
    RELEASING = "releasing"  # SEF no longer needs it; its instance must still be terminated
    TERMINATED = "terminated"  # its instance is gone, or never existed
    FAILED = "failed"  # it never ran, or its instance disappeared while it was a standby


LIVE = frozenset({ReplicaStatus.LAUNCHING, ReplicaStatus.READY})
"""The statuses of a standby; at most one replica of an agent is in one of them."""

TRANSITIONS: dict[tuple[ReplicaStatus, ReplicaStatus], str] = {
    # The instance has an id and EC2 reports it as running before the launch timed out.
    (
        ReplicaStatus.LAUNCHING,
        ReplicaStatus.READY,
    ): "EC2 reports the instance as running",
    # The instance may run, or start to run later, so it must be terminated.
    (
        ReplicaStatus.LAUNCHING,
        ReplicaStatus.RELEASING,
    ): "no longer needed, signalled itself, or the launch timed out",
    # Nothing runs that would have to be terminated.
    (
        ReplicaStatus.LAUNCHING,
        ReplicaStatus.FAILED,
    ): "no pool has capacity, EC2 refuses the launch, or the instance ended before it ran",
    # The compare-and-swap of the agent's row and this transition are one transaction.
    (
        ReplicaStatus.READY,
        ReplicaStatus.PROMOTED,
    ): "becomes the agent's primary",
    # Manual mode was turned off, its incident was closed, or AWS sent a signal for the standby.
    (
        ReplicaStatus.READY,
        ReplicaStatus.RELEASING,
    ): "no longer needed, or signalled itself",
    # A health check found the instance ended, or several checks in a row did not find it.
    (
        ReplicaStatus.READY,
        ReplicaStatus.FAILED,
    ): "a health check finds its instance gone",
    # An instance that EC2 has not known for minutes counts as gone too.
    (
        ReplicaStatus.RELEASING,
        ReplicaStatus.TERMINATED,
    ): "EC2 accepts the termination, or there is no instance",
    # It still runs, and no call to terminate it was committed.
    (
        ReplicaStatus.RELEASING,
        ReplicaStatus.PROMOTED,
    ): "an operator names it, or nothing else is left to promote",
    # SEF terminated the former primary after a switch, or EC2 reports that it has ended.
    (
        ReplicaStatus.PROMOTED,
        ReplicaStatus.TERMINATED,
    ): "terminated by SEF after a switch, or by AWS",
}
"""The cause of each transition of a replica; every other transition is illegal.

docs/architecture.md draws them as a state diagram, with the same causes.
"""


class IllegalTransition(Exception):
    """A transition that `TRANSITIONS` does not have: a defect of the caller, never of the data."""


def check_transition(old: ReplicaStatus, new: ReplicaStatus) -> str:
    """Return the cause of a legal transition.

    Raises:
        IllegalTransition: the table does not have it.
    """
    cause = TRANSITIONS.get((old, new))
    if cause is None:
        raise IllegalTransition(f"a {old} replica cannot become {new}")
    return cause


# Modes


class Mode(StrEnum):
    """The mode that an agent's switches put it into."""

    MANUAL = "manual"  # SEF always keeps a standby, and an operator switches to it
    AUTO = "auto"  # auto-switch, auto-terminate or both are on
    EMERGENCY_ONLY = "emergency_only"  # all are off: SEF still replaces a primary that is lost


# Cutover


class CutoverStatus(StrEnum):
    """The progress of a cutover."""

    RUNNING = "running"  # some steps are not finished, and none of them has failed
    NEEDS_OPERATOR = "needs_operator"  # some are not finished, and at least one has failed
    DONE = "done"  # every step is done or skipped
    SUPERSEDED = "superseded"  # the agent got another primary before the cutover was finished


OPEN_CUTOVERS = (CutoverStatus.RUNNING, CutoverStatus.NEEDS_OPERATOR)
"""The statuses in which SEF still works on a cutover."""


class StepStatus(StrEnum):
    """The progress of a step of a cutover."""

    PENDING = "pending"  # not done yet; later steps may wait for it
    DONE = "done"  # finished
    FAILED = "failed"
    """Refused or timed out: no step waits for it any longer, and SEF retries it, except for the
    `before` webhook."""
    SKIPPED = "skipped"  # there was no time for it, or its target was removed


class StepKind(StrEnum):
    """The action of a step; its target names the resource."""

    RUNNING = "running"  # wait until EC2 reports the new primary as running
    WEBHOOK_BEFORE = "webhook-before"  # call the webhook before the first move
    VOLUME = "volume"  # detach a volume and attach it to the new primary
    NETWORK_INTERFACE = "network-interface"  # detach it and attach it to the new primary
    PRIVATE_IP = "private-ip"  # move the secondary private address
    REGISTER = "register"  # register the new primary in a target group
    HEALTHY = "healthy"  # wait until the target group reports the new primary as healthy
    ELASTIC_IP = "elastic-ip"  # associate it with the new primary
    ROUTE = "route"  # point a route of a route table to the new primary
    DNS = "dns"  # set the record to the address of the new primary
    DEREGISTER = "deregister"  # remove the former primaries from a target group
    WEBHOOK_AFTER = "webhook-after"  # call the webhook after the last move


# Notifications


class NotificationKind(StrEnum):
    """The subject of a notification; an incident has at most one of each kind."""

    RECOMMENDATION = (
        "recommendation"  # AWS recommended a rebalance, and the risk is too low for SEF to act
    )
    DETECTION = "detection"  # an instance is being lost, or is lost, and SEF acts
    SWITCH = "switch"  # the agent has a new primary
    OPERATOR = "operator"  # the incident cannot continue without an operator
    CUTOVER = "cutover"  # the cutover cannot continue without an operator
    OUTCOME = "outcome"  # the incident is over
    ALERT = "alert"  # an event outside any incident, or a limit that was reached


class NotificationSeverity(StrEnum):
    """The urgency of a notification, in rising order."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


SEVERITIES = list(NotificationSeverity)
"""The severities in rising order."""

# Words


def plural(count: int, noun: str) -> str:
    """Return the count with its noun, such as `1 instance` or `2 instances`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
