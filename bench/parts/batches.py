"""A thousand reports in each request: SEF against a bare INSERT and InfluxDB."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice

from mysql.connector.abstracts import MySQLConnectionAbstract

from bench import servers
from bench.clients import Answer, Post, send_all
from bench.prices import POOL
from bench.results import Aim, Comparison
from bench.schedule import Run
from bench.workload import START, Report, agents, as_batches, as_writes, in_order
from sef.config import Settings
from sef.db import tables
from smart_emergency_fallback import SmartEmergencyFallback

SIZE = 1000
WORKERS = 2
CONNECTIONS = 4
SHAPES = {"of 1,000 agents": 1000, "of one agent": 1}
"""Agents per batch: a relay sends reports of many agents, a backfill those of one."""
BEGIN = START - 400_000_000
"""Early enough that thousands of batches of one agent, which span years, lie in the past."""

BARE = "a plain multi-row INSERT, same driver and table"
INFLUXDB = "InfluxDB, batches of 1,000, fsync"
INSERT = (
    "INSERT INTO pricing_reports (agent_id, pool_id, timestamp, spot_price, data_quality_flag, "
    "processed_by, primary_price, received_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
)


def measure(run: Run) -> Sequence[Comparison]:
    with ExitStack() as stack:
        server = stack.enter_context(servers.mariadb())
        url = server.url("sef")
        at = stack.enter_context(servers.sef(url, run.home / "var", workers=WORKERS))
        influxdb = stack.enter_context(servers.influxdb(run.home / "influxdb"))
        sef = SmartEmergencyFallback(url, settings=Settings(run_jobs=False))
        stack.callback(sef.close)
        bare = server.connect("sef")
        stack.callback(bare.close)

        contestants: dict[tuple[str, str], Callable[[int], float]] = {}
        for shape, size in SHAPES.items():
            streams = _Streams(size)

            def through_http(many: int, streams: _Streams = streams, shape: str = shape) -> float:
                shares = streams.shares("http", as_batches, many)
                with run.watched(at.pid, f"batches of {SIZE:,} reports {shape}"):
                    taken, _ = send_all(at, shares, check=all_taken)
                return SIZE * many / taken

            def in_process(many: int, streams: _Streams = streams) -> float:
                return in_this_process(sef, streams("process"), many)

            def by_insert(many: int, streams: _Streams = streams) -> float:
                return bare_inserts(bare, streams("bare"), many)

            contestants["SEF over HTTP", shape] = _times(run, 60, through_http)
            contestants["SEF in process", shape] = _times(run, 40, in_process)
            contestants[BARE, shape] = _times(run, 100, by_insert)
            if influxdb is not None:
                base: str = influxdb

                def to_influxdb(many: int, streams: _Streams = streams, base: str = base) -> float:
                    taken, _ = send_all(base, streams.shares("influx", as_writes, many))
                    return SIZE * many / taken

                contestants[INFLUXDB, shape] = _times(run, 500, to_influxdb)
        figures = run.in_turns(contestants, warm_up=True)
    found = []
    for shape in SHAPES:
        has_peer = (INFLUXDB, shape) in figures
        found += [
            Comparison(
                f"batches of 1,000 reports {shape}, in process, one thread",
                "points/s",
                figures["SEF in process", shape],
                BARE,
                figures[BARE, shape],
                Aim(at_least=0.7),
            ),
            Comparison(
                f"batches of 1,000 reports {shape}, over HTTP, {CONNECTIONS} connections",
                "points/s",
                figures["SEF over HTTP", shape],
                INFLUXDB,
                figures[INFLUXDB, shape] if has_peer else (),
                Aim(at_least=0.4),
                "" if has_peer else servers.NO_INFLUXDB,
            ),
        ]
    return found


class _Streams:
    """Endless streams of reports: each way of storing them has agents of its own."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._streams: dict[str, Iterator[Report]] = {}

    def __call__(self, way: str) -> Iterator[Report]:
        if way not in self._streams:
            names = agents(self._size, f"{way}-{self._size}")
            self._streams[way] = in_order(names, BEGIN)
        return self._streams[way]

    def shares(
        self, way: str, of: Callable[[Iterable[Report], int, int], list[Post]], many: int
    ) -> list[list[Post]]:
        """Return `many` batches, shared by connections that have agents of their own."""
        return [of(self(f"{way}{n}"), SIZE, many // CONNECTIONS) for n in range(CONNECTIONS)]


def _times(run: Run, full: int, work: Callable[[int], float]) -> Callable[[int], float]:
    """Return a contestant that runs `work` with `full` batches, or with 8 to warm up."""
    return lambda number: work(8 if number < 0 else run.size(full, 8))


def in_this_process(sef: SmartEmergencyFallback, reports: Iterable[Report], many: int) -> float:
    """Store batches with the façade; return reports per second."""
    entries = [{"agent_id": one.agent_id, **one.fields()} for one in islice(reports, SIZE * many)]
    started = time.perf_counter()
    for first in range(0, len(entries), SIZE):
        answer = sef.process_batch(entries[first : first + SIZE])
        assert answer["accepted"] == SIZE, answer
    return len(entries) / (time.perf_counter() - started)


def bare_inserts(
    connection: MySQLConnectionAbstract, reports: Iterable[Report], many: int
) -> float:
    """Insert a thousand rows per INSERT and COMMIT; return rows per second."""
    now = datetime.now(UTC).replace(tzinfo=None)
    rows = [_row(one, now) for one in islice(reports, SIZE * many)]
    started = time.perf_counter()
    cursor = connection.cursor()
    for first in range(0, len(rows), SIZE):
        cursor.executemany(INSERT, rows[first : first + SIZE])
        connection.commit()
    cursor.close()
    return len(rows) / (time.perf_counter() - started)


def all_taken(answer: Answer) -> bool:
    """Return True if SEF stored the whole batch, and none of it was stored before."""
    return answer.status == 200 and json.loads(answer.body)["accepted"] == SIZE


def _row(one: Report, now: datetime) -> tuple[object, ...]:
    at = datetime.fromtimestamp(one.at, UTC).replace(tzinfo=None)
    normal = ("normal", tables.PROCESSED_BY)
    return (one.agent_id, POOL, at, one.price, *normal, one.price, now)
