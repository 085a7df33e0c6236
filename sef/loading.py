"""Taking any number of reports, a thousand in a transaction, and telling what became of them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sef.core.inputs import Refused
from sef.core.lines import Line
from sef.errors import SefError

AT_ONCE = 1000
SHOWN = 1000
"""How many refused lines are told one by one; of the rest, how many there are."""

COUNTED = ("accepted", "buffered", "duplicates", "interpolated")


@dataclass(slots=True)
class Tally:
    """What has become of the lines so far, all of which are committed or refused."""

    line: int = 0
    end: int = 0
    """Where the next line begins, in bytes."""
    counts: Counter[str] = field(default_factory=Counter)
    rejected_total: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, number: int, reason: str, message: str) -> None:
        self.rejected_total += 1
        if len(self.rejected) < SHOWN:
            self.rejected.append({"line": number, "reason": reason, "message": message})

    def as_answer(self) -> dict[str, Any]:
        return {
            **{name: self.counts[name] for name in COUNTED},
            "rejected_total": self.rejected_total,
            "rejected": sorted(self.rejected, key=lambda one: int(one["line"])),
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "line": self.line,
            "end": self.end,
            "counts": dict(self.counts),
            "rejected_total": self.rejected_total,
            "rejected": self.rejected,
        }


def load(
    lines: Iterable[Line],
    parse: Callable[[Line], Any],
    process_batch: Callable[[Sequence[Any]], dict[str, Any]],
    tally: Tally,
) -> Iterator[Tally]:
    """Store the reports of lines; yields the tally when some more are committed, and at the end.

    Raises:
        SefError: the database is away. What was yielded before is committed, and may come again.
    """
    chunk: list[Any] = []
    numbers: list[int] = []
    line = None
    for line in lines:
        if not line.is_blank:
            try:
                chunk.append(parse(line))
                numbers.append(line.number)
            except Refused as refused:
                tally.refuse(line.number, refused.reason, refused.message)
        if line.number - tally.line >= AT_ONCE:
            _store(chunk, numbers, line, process_batch, tally)
            chunk, numbers = [], []
            yield tally
    if line is not None:
        _store(chunk, numbers, line, process_batch, tally)
    yield tally


def _store(
    chunk: list[Any],
    numbers: list[int],
    last: Line,
    process_batch: Callable[[Sequence[Any]], dict[str, Any]],
    tally: Tally,
) -> None:
    try:
        told = process_batch(chunk)
    except SefError as error:
        error.message += f" The first {tally.line} lines are stored; they may be sent again."
        raise
    for name in COUNTED:
        tally.counts[name] += told[name]
    for one in told["rejected"]:
        tally.refuse(numbers[one["index"]], one["reason"], one["message"])
    tally.line, tally.end = last.number, last.end
