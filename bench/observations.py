"""Make the observations of a backfill, and clean them with SEF's pure functions.

Prices are integers here, in units of 1e-8 USD where they are observed and of 1e-9 where they are
clean, and times are seconds, so that no peer rounds.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from bench.prices import POOL, prices
from bench.workload import BEHIND, EVERY, START
from sef.prices.series import CleaningRules, Observation, Point, clean_series
from sef.terms import Flag, Source

SERIES = 10
"""Number of series; every other one has two sources."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FLAGS = (Flag.NORMAL, Flag.AVERAGED, Flag.DIVERGENT, Flag.INTERPOLATED)
"""The flags in the order of their numbers in bench/backfill_peers.py."""

Seen = tuple[int, int, int, int]
"""Series, source (1: replica), time, price."""
Row = tuple[int, int, int, int]
"""Series, time, price, number of the flag."""


def observations(size: int) -> list[Seen]:
    """Make observations of ten agents, with gaps, repeats, delays and two sources.

    A million observations cover half a year of each agent.
    """
    chance, changes = Random(1), [round(Decimal(price) * 10**8) for price in prices()]
    series = [_series(number, chance, changes) for number in range(SERIES)]
    seen: list[Seen] = []
    while len(seen) < size:
        seen += [next(one) for one in series]
    del seen[size:]
    # A delay is a number of places in the same series, as when an agent retries.
    late = sorted(
        (place + (chance.randint(1, BEHIND) * SERIES if chance.random() < 0.1 else 0), place)
        for place in range(size)
    )
    return [seen[place] for _, place in late]


def _series(number: int, chance: Random, changes: Sequence[int]) -> Iterator[Seen]:
    at, step = START - 100_000_000, 0
    while True:
        price = changes[(31 * number + step) % len(changes)]
        seen: list[Seen] = [(number, 0, at, price)]
        if number % 2 == 0:
            off = chance.choice((-40, -20, -5, 1, 5, 12, 20))
            differs = 1.1 if chance.random() < 0.01 else chance.uniform(0.998, 1.002)
            seen.append((number, 1, at + off, round(price * differs)))
        if chance.random() < 0.05:
            seen.append(seen[0])
        yield from seen
        missed = chance.random()
        at += EVERY * (1 if missed > 0.03 else chance.randint(2, 5) if missed > 0.005 else 12)
        at += chance.randint(-3, 3)
        step += 1


def write_csv(path: Path, seen: Sequence[Seen]) -> None:
    with path.open("w") as file:
        file.write("agent_id,pool_id,timestamp,spot_price,is_replica\n")
        for series, source, at, price in seen:
            amount = f"{Decimal(price).scaleb(-8):f}"
            file.write(f"agent-{series},{POOL},{at},{amount},{'true' if source else 'false'}\n")


class Ours:
    """Cleans the series with SEF's pure functions."""

    def __init__(self, seen: Sequence[Seen]) -> None:
        sources = (Source.PRIMARY, Source.REPLICA)
        self._observations: list[list[Observation]] = [[] for _ in range(SERIES)]
        for series, source, at, price in seen:
            moment, amount = EPOCH + timedelta(seconds=at), Decimal(price).scaleb(-8)
            self._observations[series].append(Observation(sources[source], moment, amount))
        self._points: list[list[Point]] = []

    def work(self) -> None:
        self._points = [
            clean_series(observations, CleaningRules()) for observations in self._observations
        ]

    def rows(self) -> list[Row]:
        if not self._points:
            self.work()
        return [
            (
                series,
                (point.at - EPOCH) // timedelta(seconds=1),
                int(point.price.scaleb(9)),
                FLAGS.index(point.flag),
            )
            for series, points in enumerate(self._points)
            for point in points
        ]


def check_equal(expected: Sequence[Row], found: Sequence[Any]) -> None:
    """Raise RuntimeError, with the first difference, unless the results are equal."""
    if list(expected) == list(found):
        return
    pairs = zip(expected, found, strict=False)
    place = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
    place = min(len(expected), len(found)) if place is None else place
    raise RuntimeError(
        f"the results differ at row {place} of {len(expected)} and {len(found)}: "
        f"{expected[place : place + 1]} and {list(found)[place : place + 1]}"
    )
