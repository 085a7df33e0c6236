"""Decide which targets have strayed from the primary: a pure comparison of two looks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Seen:
    """A target in one look.

    Attributes:
        holders: the instances that have it.
        problem: the reason why AWS does not show the holders; None if it shows them.
    """

    holders: frozenset[str] = frozenset()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Stray:
    """A target that was not at the primary, as it is stored.

    Attributes:
        holders: the instances that had it, sorted; None: AWS did not show them.
        since: time of the first look that found it so, in ISO 8601.
        is_told: a second look has confirmed it, and people are told.
    """

    holders: list[str] | None
    problem: str | None
    since: str
    is_told: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a look beside the one before it.

    Attributes:
        elsewhere: all targets that are not at the primary.
        told: those of them that are told now.
        returned: the targets that are at the primary again, after people were told.
    """

    elsewhere: Mapping[str, Stray]
    told: Mapping[str, Stray]
    returned: Sequence[str]

    @property
    def is_unconfirmed(self) -> bool:
        """True if a second look soon has to confirm this one."""
        return any(not stray.is_told for stray in self.elsewhere.values())


def compare(
    before: Mapping[str, Stray], seen: Mapping[str, Seen], primary: str, now: datetime
) -> Outcome:
    """Compare a look with the strays that the one before it has left."""
    elsewhere: dict[str, Stray] = {}
    told: dict[str, Stray] = {}
    for name, one in seen.items():
        if one.problem is None and primary in one.holders:
            continue
        holders = None if one.problem is not None else sorted(one.holders)
        known = before.get(name)
        if known is None or known.holders != holders:
            elsewhere[name] = Stray(holders, one.problem, now.isoformat())
        elif known.is_told:
            elsewhere[name] = known
        else:
            elsewhere[name] = told[name] = replace(known, problem=one.problem, is_told=True)
    returned = [
        name
        for name, stray in before.items()
        if stray.is_told and name in seen and name not in elsewhere
    ]
    return Outcome(elsewhere, told, sorted(returned))
