"""Decide if an instance that no longer serves an agent may be terminated.

An instance is kept while something may still need it. The reasons are computed from the rows and
from EC2's answers in each pass, so that a primary that is put back, a target that is corrected or a
new primary that fails is considered, whatever happened after the promotion.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sef.terms import plural


@dataclass(frozen=True, slots=True)
class RowFacts:
    """The facts about a retired instance that SEF's rows know.

    Attributes:
        terminate_after: the end of its drain. None: AWS or the operator terminates it.
        primary_of: the agent of which it is the primary, if there is one.
        standby_of: the agent of which it is the standby, if there is one.
        primary: the primary of the agent that it served.
        has_emergency: the primary of that agent is being lost, or is lost.
        is_cutover_open: the cutover from it to the primary is unfinished.
        is_end_ordered: an operator has named it to be terminated, whatever it holds.
    """

    terminate_after: datetime | None
    primary_of: str | None
    standby_of: str | None
    primary: str | None
    has_emergency: bool
    is_cutover_open: bool
    is_end_ordered: bool = False


@dataclass(frozen=True, slots=True)
class CloudFacts:
    """The facts about a retired instance that AWS knows.

    Attributes:
        primary: the primary of the agent that it served.
        is_primary_running: EC2 shows that primary running.
        held: the agent's cutover targets that the retired instance still has.
        unseen: the cutover targets of which SEF cannot see the holder.
        is_end_ordered: an operator has named it to be terminated, whatever it holds.
    """

    primary: str
    is_primary_running: bool
    held: Sequence[str]
    unseen: Sequence[str]
    is_end_ordered: bool = False


@dataclass(frozen=True, slots=True)
class Belonging:
    """A volume or network interface at an instance that is or was a target of an agent.

    Attributes:
        is_target: it is one now.
        is_deleted: EC2 deletes it when the instance is terminated (DeleteOnTermination).
    """

    resource_id: str
    agent_id: str
    is_target: bool
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A former primary that SEF left to AWS, which announced its end or lost it.

    Attributes:
        state: EC2's state of it; None: EC2 does not show it.
        has_ended: EC2 shows it terminated, or has not shown it for long.
        is_announced: AWS has announced its end.
        was_stopped: AWS, and no operator, was seen to have stopped it since.
        started_again: EC2 shows a launch time after it was replaced.
        behavior: what an interruption does to it; None: its spot request is not known.
        brings_back: its spot request launches or starts an instance again after it ends.
        may_end: SEF terminates former primaries in the agent's mode.
    """

    state: str | None
    has_ended: bool
    is_announced: bool
    was_stopped: bool
    started_again: bool
    behavior: str | None
    brings_back: bool
    may_end: bool

    @property
    def runs_again(self) -> bool:
        """True if it was stopped and started by AWS, so that it runs beside the new primary."""
        is_alive = self.state in ("pending", "running")
        return is_alive and (self.was_stopped or (self.is_announced and self.started_again))

    @property
    def cancels_request(self) -> bool:
        """True if its spot request is to be cancelled now.

        The cancellation terminates a stopped instance, so that needs the decision to end it.
        """
        if not self.brings_back or self.state in ("stopping", "stopped"):
            return False
        is_about_to_end = self.is_announced and self.behavior == "terminate"
        return self.has_ended or self.runs_again or is_about_to_end

    @property
    def is_to_end(self) -> bool:
        """True if SEF is to terminate it: AWS runs it again, or would."""
        waits = self.was_stopped and self.state == "stopped" and self.brings_back
        return self.may_end and (self.runs_again or waits)


LEFT = "it is left to AWS or its operator"
DRAINS = "its connections drain"
"""Reasons that need nothing but the row of the retired instance."""


def kept_by_rows(facts: RowFacts, now: datetime) -> str | None:
    """Return the reason why SEF must not terminate an instance now; None without a reason."""
    if facts.primary_of is not None:
        return f"it is the primary of {facts.primary_of}"
    if facts.standby_of is not None:
        return f"it is the standby of {facts.standby_of}"
    if facts.terminate_after is None:
        return LEFT
    if now < facts.terminate_after and not facts.is_end_ordered:
        return DRAINS
    if facts.has_emergency:
        return "the primary is being lost, and this instance may be needed"
    if facts.is_cutover_open and not facts.is_end_ordered:
        return "the cutover from it is not finished"
    if facts.primary is None:
        return "the agent has no known primary"
    return None


def kept_by_cloud(facts: CloudFacts) -> str | None:
    """Return the reason why SEF must not terminate an instance now; None without a reason."""
    if not facts.is_primary_running:
        return f"EC2 does not show the primary {facts.primary} running"
    if facts.is_end_ordered:
        return None
    if facts.held:
        return f"it still has {plural(len(facts.held), 'target')}: {', '.join(facts.held)}"
    if facts.unseen:
        return f"SEF cannot see if it still has {', '.join(facts.unseen)}"
    return None


def kept_by_belongings(belongings: Iterable[Belonging]) -> str | None:
    """Return the reason why an instance must not end with what is attached to it.

    A volume that was given up as a target survives the instance, unless it is deleted with it.
    """
    reasons = [
        f"{one.resource_id}, a target of {one.agent_id}, is attached to it"
        if one.is_target
        else f"{one.resource_id}, once a target of {one.agent_id}, would be deleted with it "
        "(DeleteOnTermination)"
        for one in belongings
        if one.is_target or one.is_deleted
    ]
    return "; ".join(reasons) or None
