"""Make the reports of a benchmark: a price per agent every five minutes, in order or not."""

import json
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count, islice
from random import Random
from typing import NamedTuple

from bench.clients import Post
from bench.prices import POOL, around, prices

START = 1_600_000_000
"""Time of the first reports, in September 2020, in epoch seconds."""
EVERY = 300

LATE, REPEATED = 0.1, 0.1
"""Shares of reports that arrive late, and that arrive twice."""
BEHIND = 5
"""Maximum number of later reports of the same agent that overtake a late one."""
REPLICA_LATER = 5
REPLICA_HIGHER = "0.002"


class Report(NamedTuple):
    agent_id: str
    at: int
    price: str
    is_replica: bool = False

    def fields(self) -> dict[str, object]:
        """Return the payload for `process_incoming_data`."""
        payload = {"spot_price": float(self.price), "pool_id": POOL, "timestamp": self.at}
        return payload | {"is_replica": True} if self.is_replica else payload

    def body(self) -> str:
        replica = ',"is_replica":true' if self.is_replica else ""
        return f'{{"spot_price":{self.price},"pool_id":"{POOL}","timestamp":{self.at}{replica}}}'

    def line(self) -> str:
        """Return the report in InfluxDB's line protocol."""
        return (
            f"pricing_reports,agent_id={self.agent_id},pool_id={POOL} "
            f"spot_price={self.price} {self.at}"
        )


def agents(size: int, name: str = "bench") -> list[str]:
    return [f"{name}-{number:06d}" for number in range(size)]


def in_order(names: Sequence[str], start: int) -> Iterator[Report]:
    """Yield a report of each agent, then the next one of each, without end."""
    yield from _in_turns([_series(name, number, start) for number, name in enumerate(names)])


def in_disorder(names: Sequence[str], start: int, seed: int = 1) -> Iterator[Report]:
    """Yield the reports of `in_order` with replicas, out of order and with repeats.

    Every other agent has a replica that reports too. Of each agent's reports, one in ten arrives
    late and one in ten arrives twice.
    """
    series: list[Iterator[Report]] = []
    for number, name in enumerate(names):
        one = _series(name, number, start)
        is_dual = number % 2 == 0
        chance = Random(f"{seed} {name}")
        series.append(_shuffled(_with_replica(one) if is_dual else one, chance))
    yield from _in_turns(series)


def duals(names: Sequence[str]) -> list[str]:
    """Return the agents that have a replica in `in_disorder`."""
    return list(names[::2])


def as_batches(reports: Iterable[Report], size: int, many: int) -> list[Post]:
    """Return `many` requests of `size` reports each."""
    return [
        Post("/api/pricing/batch", json.dumps({"reports": [_entry(one) for one in some]}).encode())
        for some in _batches(reports, size, many)
    ]


def as_writes(reports: Iterable[Report], size: int, many: int) -> list[Post]:
    """Return `many` requests of `size` points each, for InfluxDB."""
    return [
        Post(INFLUX_PATH, "\n".join(one.line() for one in some).encode(), "text/plain")
        for some in _batches(reports, size, many)
    ]


INFLUX_PATH = "/write?db=bench&precision=s"


def _batches(reports: Iterable[Report], size: int, many: int) -> Iterator[list[Report]]:
    endless = iter(reports)
    for _ in range(many):
        yield list(islice(endless, size))


def _entry(report: Report) -> dict[str, object]:
    return {"agent_id": report.agent_id, **report.fields()}


def _series(name: str, number: int, start: int) -> Iterator[Report]:
    changes = prices()
    for step in count():
        yield Report(name, start + EVERY * step, changes[(31 * number + step) % len(changes)])


def _with_replica(series: Iterable[Report]) -> Iterator[Report]:
    for one in series:
        yield one
        higher = around(one.price, REPLICA_HIGHER)
        yield Report(one.agent_id, one.at + REPLICA_LATER, higher, is_replica=True)


def _shuffled(series: Iterable[Report], chance: Random) -> Iterator[Report]:
    pending: list[tuple[int, int, Report]] = []
    for number, one in enumerate(series):
        late = chance.randint(1, BEHIND) if chance.random() < LATE else 0
        heappush(pending, (number + late, number, one))
        if chance.random() < REPEATED:
            heappush(pending, (number + chance.randint(1, BEHIND), number, one))
        while pending and pending[0][0] <= number:
            yield heappop(pending)[2]


def _in_turns(series: Sequence[Iterator[Report]]) -> Iterator[Report]:
    while True:
        for one in series:
            yield next(one)
