"""A replica's life: its states, the moves between them, and what causes each."""

from enum import StrEnum


class ReplicaType(StrEnum):
    MANUAL = "manual"
    REBALANCE = "automatic-rebalance"
    TERMINATION = "automatic-termination"


class Market(StrEnum):
    SPOT = "spot"
    ON_DEMAND = "on-demand"


class Status(StrEnum):
    LAUNCHING = "launching"  # decided on; an instance may or may not exist yet
    READY = "ready"  # EC2 says running: the agent's standby
    PROMOTED = "promoted"  # is, or was, the agent's primary
    RELEASING = "releasing"  # no longer wanted; its instance is still to be terminated
    TERMINATED = "terminated"  # its instance is gone, or never was
    FAILED = "failed"  # never ran, or vanished while it was a standby


LIVE = frozenset({Status.LAUNCHING, Status.READY})
"""The states of a standby; an agent has at most one replica in them."""

TRANSITIONS: dict[tuple[Status, Status], str] = {
    (Status.LAUNCHING, Status.READY): "EC2 reports the instance running",
    (Status.LAUNCHING, Status.RELEASING): "not wanted any more, signalled itself, or too slow",
    (Status.LAUNCHING, Status.FAILED): "no pool has capacity, EC2 refuses, or it died on the way",
    (Status.READY, Status.PROMOTED): "it became the agent's primary",
    (Status.READY, Status.RELEASING): "not wanted any more, or signalled itself",
    (Status.READY, Status.FAILED): "its instance vanished",
    (Status.RELEASING, Status.TERMINATED): "EC2 took the termination, or there was no instance",
    (Status.PROMOTED, Status.TERMINATED): "retired after a switch, or taken by AWS",
}


class IllegalTransition(Exception):
    """A move that the table does not have: a defect of the caller, never of the data."""


def check_transition(old: Status, new: Status) -> str:
    """Return the cause of a legal move.

    Raises:
        IllegalTransition: when the table does not have it.
    """
    cause = TRANSITIONS.get((old, new))
    if cause is None:
        raise IllegalTransition(f"a {old} replica cannot become {new}")
    return cause
