"""Run contestants in turns, so that a disturbance of the machine affects all of them."""

import sys
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench.results import rounded, shown

Name = TypeVar("Name", bound=Hashable)


@dataclass
class Run:
    """A run of one part: sizes, rounds, progress and profile.

    Attributes:
        home: an empty folder for servers and files.
        is_quick: measure only enough to show that the part works.
        profile: profiles a process while it is measured; see bench/profiles.py.
        details: values that are stored beside the figures.
    """

    part: str
    home: Path
    is_quick: bool = False
    rounds: int = 5
    profile: Callable[[int, str], AbstractContextManager[None]] | None = None
    details: dict[str, object] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def size(self, full: int, quick: int) -> int:
        """Return the size for this run."""
        return quick if self.is_quick else full

    def say(self, what: str) -> None:
        """Show the progress in one line on a terminal; elsewhere show nothing."""
        if sys.stderr.isatty():
            line = f"{self.part}, {time.monotonic() - self._began:.0f} s: {what}"
            print(f"\r\033[K{line[:100]}", end="", file=sys.stderr, flush=True)

    def in_turns(
        self,
        contestants: Mapping[Name, Callable[[int], float]],
        rounds: int | None = None,
        *,
        warm_up: bool = False,
    ) -> dict[Name, list[float]]:
        """Return the figures of each contestant, which is called with the number of the round.

        The first contestant changes from round to round. With `warm_up`, there is a round -1
        before, whose figures are dropped.
        """
        for name, contestant in contestants.items() if warm_up else ():
            self.say(f"warming up, {name}")
            contestant(-1)
        figures: dict[Name, list[float]] = {name: [] for name in contestants}
        names = list(contestants)
        for number in range(rounds or self.rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                figures[name].append(contestants[name](number))
                self.say(f"round {number + 1}, {name}: {shown(figures[name][-1])}")
        return {name: rounded(values) for name, values in figures.items()}

    def watched(self, pid: int, what: str) -> AbstractContextManager[None]:
        """Profile a process and its descendants meanwhile, if the run is profiled."""
        return nullcontext() if self.profile is None else self.profile(pid, what)
