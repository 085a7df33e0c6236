"""Name the rules of the loop that can be switched off, and record what the loop did."""

from dataclasses import dataclass, field
from enum import StrEnum

from tests.model.world import State

RULES = {
    "drain": "connections to a former primary drain before it ends",
    "emergency": "nothing ends while the primary is being lost",
    "primary runs": "nothing ends while EC2 does not show the primary running",
    "held targets": "nothing ends while a target is with it, or the cutover from it is open",
    "former": "a former primary that runs is promoted rather than none",
    "released spare": "a released standby that runs is promoted rather than none",
    "release waits": "no released standby ends while the primary is being lost",
    "claimed": "a released standby that an operator names is not ended",
    "lost spare": "a lost primary that runs again may be promoted",
    "recommended": "a promoted instance with a recommendation gets an incident at once",
    "relief": "a standby with a recommendation stays until another runs",
    "ignored notice": "a notice for a former primary counts when an operator names it again",
    "unknown launch": "nothing ends as an orphan while the rows are older than EC2",
    "successor": "an unknown instance that reports is adopted if the primary is gone",
    "wish": "a target that is corrected or added moves like the others",
    "holder": "a target moves at once if its holder is dying or gone",
    "put back": "a primary that is put back loses its retirement",
    "standby's id": "a standby is not taken for the primary",
    "learn": "an incident of an unknown primary stays open when its id is learned",
    "named anew": "an instance that AWS takes and an operator names gets an incident at once",
    "runs again": "a primary that runs again is not replaced",
    "no drill": "no drill begins while targets still move",
    "cause": "the key of a message holds the cause",
}


class Was(StrEnum):
    """The role of an instance that SEF terminated."""

    PRIMARY = "former primary"
    RELEASED = "released standby"
    ORPHAN = "orphan"


@dataclass(frozen=True, slots=True)
class Ended:
    """An instance that SEF terminated, and the state before."""

    machine: str
    before: State
    was: Was
    drain: int | None = None


@dataclass(slots=True)
class Run:
    """The loop's steps until nothing is left to do now."""

    state: State
    ended: list[Ended] = field(default_factory=list)
    closed: list[State] = field(default_factory=list)
    """The states in which it closed an incident without another primary."""
    promoted: list[tuple[State, State]] = field(default_factory=list)
    """The states before and after each promotion."""
    is_at_rest: bool = True
