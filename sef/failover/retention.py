"""Decide if an instance that no longer serves an agent may be terminated.

An instance is kept while something may still need it. The reasons are computed from the rows and
from EC2's answers in each pass, so that a primary that is put back, a target that is corrected or a
new primary that fails is considered, whatever happened after the promotion.
"""

from collections.abc import Sequence
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
    """

    terminate_after: datetime | None
    primary_of: str | None
    standby_of: str | None
    primary: str | None
    has_emergency: bool
    is_cutover_open: bool


@dataclass(frozen=True, slots=True)
class CloudFacts:
    """The facts about a retired instance that AWS knows.

    Attributes:
        primary: the primary of the agent that it served.
        is_primary_running: EC2 shows that primary running.
        held: the agent's cutover targets that the retired instance still has.
        unseen: the cutover targets of which SEF cannot see the holder.
    """

    primary: str
    is_primary_running: bool
    held: Sequence[str]
    unseen: Sequence[str]


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
    if now < facts.terminate_after:
        return DRAINS
    if facts.has_emergency:
        return "the primary is being lost, and this instance may be needed"
    if facts.is_cutover_open:
        return "the cutover from it is not finished"
    if facts.primary is None:
        return "the agent has no known primary"
    return None


def kept_by_cloud(facts: CloudFacts) -> str | None:
    """Return the reason why SEF must not terminate an instance now; None without a reason."""
    if not facts.is_primary_running:
        return f"EC2 does not show the primary {facts.primary} running"
    if facts.held:
        return f"it still has {plural(len(facts.held), 'target')}: {', '.join(facts.held)}"
    if facts.unseen:
        return f"SEF cannot see if it still has {', '.join(facts.unseen)}"
    return None
