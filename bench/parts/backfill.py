"""A million observations merged and filled in memory: SEF against pandas and DuckDB."""

import importlib.util
import time
from collections.abc import Callable, Sequence

from bench.observations import Ours, check_equal, observations
from bench.results import Aim, Comparison
from bench.schedule import Run

PANDAS, DUCKDB = "pandas", "DuckDB, two threads"
MISSING = "absent: not installed (pip install -r bench/requirements.txt)"
SAME = "The benchmark first checks that all three produce the same rows."


def measure(run: Run) -> Sequence[Comparison]:
    size = run.size(1_000_000, 20_000)
    seen = observations(size)
    ours = Ours(seen)
    work: dict[str, Callable[[], None]] = {"SEF": ours.work}
    if peers_are_there():
        from bench.backfill_peers import Duckdb, Pandas

        for name, peer in ((PANDAS, Pandas.of(seen)), (DUCKDB, Duckdb.of(seen))):
            peer.work()
            check_equal(ours.rows(), peer.rows())
            work[name] = peer.work
    figures = run.in_turns({name: timed(once) for name, once in work.items()})
    return compared(f"{size:,} observations merged and filled in memory", figures, SAME)


def peers_are_there() -> bool:
    return all(importlib.util.find_spec(name) for name in ("pandas", "duckdb"))


def compared(what: str, figures: dict[str, list[float]], note: str) -> list[Comparison]:
    return [
        Comparison(
            what,
            "s",
            figures["SEF"],
            peer,
            figures.get(peer, ()),
            Aim(at_most=1) if peer == PANDAS else None,
            "" if peer in figures else MISSING,
            note,
        )
        for peer in (PANDAS, DUCKDB)
    ]


def timed(work: Callable[[], None]) -> Callable[[int], float]:
    """Return a contestant whose figure is the duration of `work`, in seconds."""

    def once(_: int) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return once
