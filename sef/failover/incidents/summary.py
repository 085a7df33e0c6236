"""What happened in an incident: entries in order, and the whole of it in a sentence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sef.terms import Goal, IncidentKind, IncidentStatus


class EntryKind(StrEnum):
    SIGNAL = "signal"  # what AWS announced, or SEF found out
    DECISION = "decision"  # what is to be done, with what it rests on
    CALL = "call"  # a call to EC2 that changes something
    STEP = "step"  # a move of a replica or of a former primary
    OUTCOME = "outcome"  # what came of it
    NOTICE = "notice"  # who was told of it


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
"""What an event of the history is in a timeline, where it is no step."""


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    at: datetime
    kind: EntryKind
    type: str
    sentence: str
    details: dict[str, Any] = field(default_factory=dict)
    latency_ms: int | None = None
    order: tuple[int, ...] = ()
    """Tells entries of one moment apart."""


@dataclass(frozen=True, slots=True)
class IncidentSummary:
    """What a summary is made of."""

    kind: IncidentKind
    status: IncidentStatus
    goal: Goal
    reason: str
    obstacle: str | None
    """Why it needs an operator, if it does."""
    old: str
    new: str | None
    new_pool: str | None
    failover_ms: int | None
    seconds_left: float | None
    """At the promotion, or now while there has been none; None where nothing was announced."""


def in_order(entries: Iterable[TimelineEntry]) -> Sequence[TimelineEntry]:
    return sorted(entries, key=lambda entry: (entry.at, entry.order))


def seconds(milliseconds: int) -> str:
    """As in `0.812 s`."""
    return f"{milliseconds / 1000:.3f} s"


def summary(course: IncidentSummary) -> str:
    """The incident in a sentence."""
    if course.new is not None:
        where = f" in {course.new_pool}" if course.new_pool else ""
        took = "" if course.failover_ms is None else f" in {seconds(course.failover_ms)}"
        return (
            f"{_BEGAN[course.kind]}{course.new}{where} replaced {course.old}{took}{_left(course)}"
        )
    if course.status is IncidentStatus.NEEDS_OPERATOR:
        why = course.obstacle or course.reason
        return f"{course.old} cannot be replaced without help: {why}{_left(course)}"
    if course.status is IncidentStatus.OPEN:
        return f"{course.old} is {_DOING[course.goal]}: {course.reason}{_left(course)}"
    if course.status is IncidentStatus.DONE:
        return f"{course.old} needed no failover: {course.reason}"
    return f"nothing was done about {course.old}: {course.reason}"


_BEGAN = {
    IncidentKind.INTERRUPTION: "",
    IncidentKind.LOSS: "an instance was lost without a notice: ",
    IncidentKind.DRILL: "a drill: ",
    IncidentKind.RETURN: "back to spot: ",
}
_DOING = {
    Goal.MONITOR: "watched",
    Goal.STANDBY: "given a standby",
    Goal.SWITCH: "being replaced",
}


def _left(course: IncidentSummary) -> str:
    if course.seconds_left is None:
        return ""
    if course.seconds_left < 0:
        return f", {-course.seconds_left:.1f} s after the deadline"
    return f", {course.seconds_left:.1f} s before the deadline"
