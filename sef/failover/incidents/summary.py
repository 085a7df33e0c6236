"""The timeline entries of an incident, and its summary in one sentence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sef.terms import Goal, IncidentKind, IncidentStatus

_PREFIX = {
    IncidentKind.INTERRUPTION: "",
    IncidentKind.LOSS: "an instance was lost without a notice: ",
    IncidentKind.DRILL: "a drill: ",
    IncidentKind.RETURN: "return to spot: ",
}
"""Beginning of the summary of a replaced instance."""

_ACTIVITY = {
    Goal.MONITOR: "monitored",
    Goal.STANDBY: "given a standby",
    Goal.SWITCH: "being replaced",
}
"""Work on an instance whose incident is open."""


class EntryKind(StrEnum):
    """The subject of a timeline entry."""

    SIGNAL = "signal"  # an announcement of AWS, or a loss that SEF has found
    DECISION = "decision"  # a decision, with its inputs
    CALL = "call"  # a call to EC2 that changes something
    STEP = "step"  # a change of a replica or of a former primary
    OUTCOME = "outcome"  # the end of the incident or of its cutover, or the need for an operator
    NOTICE = "notice"  # a notification, on one channel


KINDS = {
    "rebalance_recommendation": EntryKind.DECISION,
    "termination_notice": EntryKind.DECISION,
    "unannounced_loss": EntryKind.DECISION,
    "signal_ignored": EntryKind.DECISION,
    "switchover_planned": EntryKind.DECISION,
    "launch_decided": EntryKind.DECISION,
    "cloud_unavailable": EntryKind.CALL,
    "launch_refused": EntryKind.CALL,
    "failover_completed": EntryKind.OUTCOME,
    "incident_closed": EntryKind.OUTCOME,
    "cutover_completed": EntryKind.OUTCOME,
    "operator_needed": EntryKind.OUTCOME,
}
"""Kind of the timeline entry of each event type; all others are steps."""


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """An entry of an incident's timeline."""

    at: datetime
    kind: EntryKind
    type: str
    sentence: str
    details: dict[str, Any] = field(default_factory=dict)
    latency_ms: int | None = None
    order: tuple[int, ...] = ()
    """Orders entries that have the same time."""


@dataclass(frozen=True, slots=True)
class IncidentSummary:
    """The facts that a summary is made of."""

    kind: IncidentKind
    status: IncidentStatus
    goal: Goal
    reason: str
    obstacle: str | None
    """Reason why the incident needs an operator, if it does."""
    old: str
    """Instance that is being lost."""
    new: str | None
    """Instance that was promoted, if there is one."""
    new_pool: str | None
    failover_ms: int | None
    seconds_left: float | None
    """Seconds until the deadline, from the promotion or, before one, from now; None without a
    deadline."""


def in_order(entries: Iterable[TimelineEntry]) -> Sequence[TimelineEntry]:
    """Sort entries by time."""
    return sorted(entries, key=lambda entry: (entry.at, entry.order))


def seconds(milliseconds: int) -> str:
    """Format milliseconds as seconds, such as `0.812 s`."""
    return f"{milliseconds / 1000:.3f} s"


def summary(facts: IncidentSummary) -> str:
    """Describe an incident in one sentence."""
    margin = _margin(facts.seconds_left)
    if facts.new is not None:
        where = f" in {facts.new_pool}" if facts.new_pool else ""
        duration = "" if facts.failover_ms is None else f" in {seconds(facts.failover_ms)}"
        return f"{_PREFIX[facts.kind]}{facts.new}{where} replaced {facts.old}{duration}{margin}"
    if facts.status is IncidentStatus.NEEDS_OPERATOR:
        reason = facts.obstacle or facts.reason
        return f"cannot replace {facts.old}; operator action needed: {reason}{margin}"
    if facts.status is IncidentStatus.OPEN:
        return f"{facts.old} is {_ACTIVITY[facts.goal]}: {facts.reason}{margin}"
    if facts.status is IncidentStatus.DONE:
        return f"{facts.old} needed no failover: {facts.reason}"
    return f"nothing was done about {facts.old}: {facts.reason}"


def _margin(seconds_left: float | None) -> str:
    if seconds_left is None:
        return ""
    if seconds_left < 0:
        return f", {-seconds_left:.1f} s after the deadline"
    return f", {seconds_left:.1f} s before the deadline"
