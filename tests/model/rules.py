"""Name the rules of the loop that can be switched off, and record what the loop did."""

from dataclasses import dataclass, field

from tests.model.world import State

RULES = {
    "drain": "connections to a former primary drain before it ends",
    "emergency": "nothing ends while the primary is being lost",
    "primary runs": "nothing ends while EC2 does not show the primary running",
    "held targets": "nothing ends while a target is with it, or the cutover from it is open",
    "former": "a former primary that runs is promoted rather than none",
    "recommended standby": "a standby stays until its successor is ready",
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


@dataclass(frozen=True, slots=True)
class Ended:
    """An instance that SEF terminated, and the state before."""

    machine: str
    before: State
    was_primary: bool
    drain: int | None = None


@dataclass(slots=True)
class Run:
    """The loop's steps until nothing is left to do now."""

    state: State
    ended: list[Ended] = field(default_factory=list)
    closed: list[State] = field(default_factory=list)
    """The states in which it closed an incident without another primary."""
    is_at_rest: bool = True
