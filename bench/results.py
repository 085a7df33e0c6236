"""Store the results of a part and of its peers as JSON, and compare them with earlier runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "bench" / "results"

NOTICEABLE = 0.05
"""A smaller relative change is noise on most machines."""


@dataclass(frozen=True, slots=True)
class Aim:
    """The limit for the ratio to the peer or, with `of_value`, for the figure itself."""

    at_least: float | None = None
    at_most: float | None = None
    of_value: bool = False

    def is_met_by(self, figure: float) -> bool:
        if self.at_least is not None:
            return figure >= self.at_least
        return self.at_most is None or figure <= self.at_most

    def __str__(self) -> str:
        sign, limit = ("≥", self.at_least) if self.at_most is None else ("≤", self.at_most)
        assert limit is not None
        return f"{sign} {shown(limit)}{'' if self.of_value else ' x'}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure of SEF beside its peer's, of the same rounds.

    Attributes:
        what: the work that was measured.
        unit: unit of the figures.
        ours: SEF's figure of each round.
        against: the name of the peer or of the limit.
        theirs: the peer's figure of each round, or the limit once per round; empty if there is no
            peer or it was absent.
        absent: the reason why the peer was not measured.
        note: a remark for the page.
    """

    what: str
    unit: str
    ours: Sequence[float]
    against: str = ""
    theirs: Sequence[float] = ()
    aim: Aim | None = None
    absent: str = ""
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """SEF's figure divided by the peer's, per round."""
        if not self.theirs:
            return []
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def judged(self) -> float | None:
        """The median of the ratios or, with `of_value`, of SEF's figures: the aim applies to it."""
        if self.aim is not None and self.aim.of_value:
            return median(self.ours)
        return median(self.ratios) if self.ratios else None

    @property
    def is_met(self) -> bool | None:
        """True if the aim is met; None without an aim or without a peer."""
        if self.aim is None or self.judged is None:
            return None
        return self.aim.is_met_by(self.judged)

    @property
    def key(self) -> str:
        return f"{self.what} | {self.against}"

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Self:
        aim = entry["aim"]
        return cls(**{**entry, "aim": None if aim is None else Aim(**aim)})


@dataclass(frozen=True, slots=True)
class Result:
    """The results of one run of one part."""

    part: str
    date: str
    seconds: float
    """Duration of the run."""
    is_quick: bool
    """True if the run only showed that the part works; its figures say nothing."""
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    comparisons: Sequence[Comparison]
    details: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.part}.json"
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        content = json.loads(path.read_text())
        comparisons = [Comparison.read(entry) for entry in content["comparisons"]]
        return cls(**{**content, "comparisons": comparisons})


def read_all(place: Path) -> dict[str, Result]:
    """Return the results of a folder, or of one file, by part."""
    paths = sorted(place.glob("*.json")) if place.is_dir() else [place]
    return {result.part: result for result in map(Result.read, paths)}


def changes(old: Result, new: Result) -> list[str]:
    """Describe how the figures of a part changed since an earlier run, a line per figure."""
    before = {one.key: one for one in old.comparisons}
    lines = [f"{new.part}: since {old.date}"]
    if old.machine != new.machine:
        lines.append("  on another machine")
    for one in new.comparisons:
        was = before.pop(one.key, None)
        lines.append(f"  {one.what}{_against(one)}: {_change(was, one)}")
    lines += [f"  {one.what}{_against(one)}: not measured any more" for one in before.values()]
    return lines


def _against(one: Comparison) -> str:
    return f", against {one.against}" if one.against else ""


def _change(was: Comparison | None, now: Comparison) -> str:
    figure, old = _judged_or_own(now), None if was is None else _judged_or_own(was)
    if figure is None:
        return now.absent or "not measured"
    if old is None:
        return f"{shown(figure)}, new"
    relative = figure / old - 1 if old else 0.0
    change = "about the same" if abs(relative) < NOTICEABLE else f"{relative:+.0%}"
    missed = "" if now.is_met is not False else ", misses its aim"
    return f"{shown(old)} → {shown(figure)}, {change}{missed}"


def _judged_or_own(one: Comparison) -> float | None:
    if one.judged is not None or one.absent:
        return one.judged
    return median(one.ours)


def shown(figure: float) -> str:
    """Format a figure with three digits, or with all digits before the point."""
    if abs(figure) >= 100 or figure == int(figure):
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.2f}"


def rounded(figures: Sequence[float]) -> list[float]:
    """Round figures to four digits, for storing."""
    return [float(f"{figure:.4g}") for figure in figures]
