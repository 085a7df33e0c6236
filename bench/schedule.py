"""Rounds in which all take their turn, so that what disturbs the machine disturbs them all."""

import sys
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench.results import rounded, shown

Who = TypeVar("Who", bound=Hashable)


@dataclass
class Run:
    """How a part is to be measured, and what it tells meanwhile.

    Attributes:
        is_quick: as little as shows that it works.
        home: an empty folder for servers and files.
        profile: watches a process while it is measured; see bench/profiles.py.
        details: what is stored with the figures and is no figure.
    """

    part: str
    home: Path
    is_quick: bool = False
    rounds: int = 5
    profile: Callable[[int, str], AbstractContextManager[None]] | None = None
    details: dict[str, object] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def size(self, full: int, quick: int) -> int:
        return quick if self.is_quick else full

    def say(self, what: str) -> None:
        """Where the part is now: one line on a terminal, nothing elsewhere."""
        if sys.stderr.isatty():
            line = f"{self.part}, {time.monotonic() - self._began:.0f} s: {what}"
            print(f"\r\033[K{line[:100]}", end="", file=sys.stderr, flush=True)

    def in_turns(
        self,
        contestants: Mapping[Who, Callable[[int], float]],
        rounds: int | None = None,
        *,
        warm_up: bool = False,
    ) -> dict[Who, list[float]]:
        """Each contestant's figures; it is called with the number of the round.

        Who begins changes from round to round. `warm_up`: there is a round -1 before, of which no
        figures are kept.
        """
        for who, contestant in contestants.items() if warm_up else ():
            self.say(f"warming up, {who}")
            contestant(-1)
        figures: dict[Who, list[float]] = {who: [] for who in contestants}
        names = list(contestants)
        for number in range(rounds or self.rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                figures[name].append(contestants[name](number))
                self.say(f"round {number + 1}, {name}: {shown(figures[name][-1])}")
        return {who: rounded(of_one) for who, of_one in figures.items()}

    def watched(self, pid: int, what: str) -> AbstractContextManager[None]:
        """While it lasts a process, with all that it has started, is profiled if that is wanted."""
        return nullcontext() if self.profile is None else self.profile(pid, what)
