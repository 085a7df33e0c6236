"""Search the states of the model breadth first for the shortest way to a broken property."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tests.model import properties
from tests.model.events import KINDS, MONTH
from tests.model.loop import Loop
from tests.model.rules import Run
from tests.model.world import (
    MINUTE,
    SILENCE,
    TTL,
    Launches,
    State,
    forget_the_gone,
    pass_time,
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A first state, and the events that can follow it."""

    name: str
    start: State
    kinds: Sequence[str]
    depth: int


@dataclass(frozen=True, slots=True)
class Counterexample(Exception):
    """A property that does not hold, and the events before."""

    scenario: str
    property: str
    broken: str
    events: Sequence[str]

    def __str__(self) -> str:
        steps = [f"  {number}. {event}" for number, event in enumerate(self.events, 1)]
        return "\n".join([f"{self.property}: {self.broken}", f"{self.scenario}, then", *steps])


class _Broken(Exception):
    """A property does not hold."""


class Search:
    """A search over one scenario.

    Args:
        off: the rules of the loop that are switched off.
    """

    def __init__(self, scenario: Scenario, off: Collection[str] = ()) -> None:
        self.scenario = scenario
        self.loop = Loop(off)
        self.seen: dict[State, tuple[State, str] | None] = {}
        self._closed: set[State] = set()
        self._settled: dict[State, State] = {}

    def run(self, depth: int | None = None) -> int:
        """Visit each state up to a depth; return their number.

        Raises:
            Counterexample: a property does not hold. No shorter way breaks one.
        """
        edge: list[State | None] = [self._visit(self.scenario.start, None, "")]
        for _ in range(self.scenario.depth if depth is None else depth):
            following: list[State | None] = []
            for state in filter(None, edge):
                for kind in self.scenario.kinds:
                    for words, after in KINDS[kind](state, self.loop):
                        if after not in self.seen:
                            following.append(self._visit(after, state, words))
            edge = following
        return len(self.seen)

    def _visit(self, state: State, before: State | None, words: str) -> State | None:
        """Let the loop run after an event; return the state, unless it was visited."""
        try:
            after = forget_the_gone(self._settle(state))
            if after in self.seen:
                return None
            self.seen[after] = None if before is None else (before, words)
            self._close(after)
        except _Broken as broken:
            name, _, sentence = str(broken).partition(": ")
            way = self._way(before)[::-1] + [words] * bool(words)
            raise Counterexample(self.scenario.name, name, sentence, way) from None
        return after

    def _way(self, state: State | None) -> list[str]:
        words = []
        while state is not None and (step := self.seen[state]) is not None:
            state, event = step
            words.append(event)
        return words

    def _settle(self, state: State) -> State:
        """Let the loop run, and check what it did."""
        if state.is_down:
            return state
        if state not in self._settled:
            run = self.loop.run(state)
            self._check_run(run)
            self._settled[state] = run.state
        return self._settled[state]

    def _check_run(self, run: Run) -> None:
        if not run.is_at_rest:
            raise _Broken("no_livelock: the loop does not come to rest")
        for ended in run.ended:
            for check in properties.OF_WHAT_SEF_ENDED:
                if (broken := check(ended)) is not None:
                    raise _Broken(f"{check.__name__}: {broken}")
        for step in run.promoted:
            for check_of in properties.OF_A_PROMOTION:
                if (broken := check_of(*step)) is not None:
                    raise _Broken(f"{check_of.__name__}: {broken}")
        for before in run.closed:
            if (broken := properties.no_incident_ends_before_its_matter(before)) is not None:
                raise _Broken(f"no_incident_ends_before_its_matter: {broken}")
        self._check(run.state, properties.ALWAYS)

    def _check(self, state: State, checks: Sequence[properties.Check]) -> None:
        for check in checks:
            if (broken := check(state, self.loop)) is not None:
                raise _Broken(f"{check.__name__}: {broken}")

    def _close(self, state: State) -> None:
        """Let time pass without another event, in the world as it is and in one that works."""
        state = self._settle(state._replace(is_down=False))
        for seconds in (MINUTE, SILENCE, SILENCE):
            state = self._settle(pass_time(state, seconds))
        if state in self._closed:
            return
        self._closed.add(state)
        self._check(state, properties.AT_REST)
        if state.is_moving:
            self._drill(state)
        state = state._replace(
            launches=Launches.OK,
            is_drill_due=False,
            targets=tuple(t._replace(is_refused=False, is_right=True) for t in state.targets),
            machines=tuple(m._replace(is_healthy=True) for m in state.machines),
        )
        for seconds in (0, SILENCE, TTL, MONTH):
            state = self._settle(pass_time(state, seconds))
        self._check(state, properties.WHEN_ALL_WORKS)

    def _drill(self, state: State) -> None:
        later = state
        for _ in range(3):
            later = self._settle(pass_time(later._replace(is_drill_due=True), SILENCE))
        if (broken := properties.drills_add_nothing(state, later)) is not None:
            raise _Broken(f"drills_add_nothing: {broken}")
