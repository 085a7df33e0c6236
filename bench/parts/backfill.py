"""A backfill merged and filled: SEF against pandas and DuckDB, in memory and into the database."""

import importlib.util
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, select, text

from bench import fleet, servers
from bench.prices import POOL, prices
from bench.results import Aim, Comparison
from bench.rounds import Run
from bench.workload import BEHIND, EVERY, START
from sef.config import Settings
from sef.core.pricing import Flag, Observation, Point, Rules, Source, clean_series
from sef.import_file import import_file
from sef.store import tables
from smart_emergency_fallback import SmartEmergencyFallback

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

SERIES = 10
"""Every other one is reported by two sources."""
PANDAS, DUCKDB = "pandas", "DuckDB, two threads"
MISSING = "absent: it is not installed (pip install -r bench/requirements.txt)"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FLAGS = (Flag.NORMAL, Flag.AVERAGED, Flag.DIVERGENT, Flag.INTERPOLATED)
"""As bench/backfill_peers.py numbers them."""
PLAIN = """
CREATE TABLE plain_points (
    agent_id VARCHAR(64) NOT NULL, pool_id VARCHAR(128) NOT NULL, timestamp DATETIME(6) NOT NULL,
    spot_price DECIMAL(13, 9) NOT NULL, data_quality_flag VARCHAR(24) NOT NULL,
    PRIMARY KEY (agent_id, pool_id, timestamp)
) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
"""
INSERT = "INSERT INTO plain_points VALUES (%s, %s, %s, %s, %s)"
AT_ONCE = 1000

Seen = tuple[int, int, int, int]
"""Series, source (1: a replica), seconds, price in units of 1e-8."""
Row = tuple[int, int, int, int]
"""Series, seconds, price in units of 1e-9, number of the flag."""


def measure(run: Run) -> Sequence[Comparison]:
    logging.getLogger("sef").setLevel(logging.ERROR)  # a backfill opens gaps by the thousand
    has_peers = all(importlib.util.find_spec(name) for name in ("pandas", "duckdb"))
    in_memory = _in_memory(run, has_peers, run.size(1_000_000, 20_000))
    stored = _stored(run, has_peers, run.size(200_000, 5_000))
    return [*in_memory, *stored]


def _in_memory(run: Run, has_peers: bool, size: int) -> list[Comparison]:
    seen = observations(size)
    ours = _Ours(seen)
    work: dict[str, Callable[[], None]] = {"SEF": ours.work}
    if has_peers:
        peers: list[_Pandas | _Duckdb] = [_Pandas(seen), _Duckdb(seen)]
        work |= {PANDAS: peers[0].work, DUCKDB: peers[1].work}
        for peer in peers:
            peer.work()
            _check_equal(ours.rows(), peer.rows())
    figures = run.in_turns({who: _timed(one) for who, one in work.items()})
    return _compared(f"{size:,} observations merged and filled in memory", figures)


def _stored(run: Run, has_peers: bool, size: int) -> list[Comparison]:
    seen = observations(size)
    file = run.home / "backfill.csv"
    write_csv(file, seen)
    with ExitStack() as stack:
        server = stack.enter_context(servers.mariadb())
        engine = stack.enter_context(fleet.tables_in(server, "backfill"))
        with engine.begin() as connection:
            connection.execute(text(PLAIN))
        sef = SmartEmergencyFallback(server.url("backfill"), settings=Settings(jobs=False))
        stack.callback(sef.close)

        def by_sef() -> None:
            with redirect_stderr(StringIO()):  # where it tells how far it is
                import_file(str(file), sef.process_batch, defaults={}, checkpoint=None)

        def by_pandas() -> None:
            _insert(engine, _Pandas.from_csv(file).rows())

        def by_duckdb() -> None:
            _insert(engine, _Duckdb.from_csv(file).rows())

        def once(work: Callable[[], None]) -> Callable[[int], float]:
            def emptied(number: int) -> float:
                _empty(engine)
                return _timed(work)(number)

            return emptied

        contestants = {"SEF": once(by_sef)}
        if has_peers:
            contestants |= {PANDAS: once(by_pandas), DUCKDB: once(by_duckdb)}
        expected = _Ours(seen)
        expected.work()
        for who, contestant in contestants.items():
            contestant(-1)
            table = "pricing_reports" if who == "SEF" else "plain_points"
            _check_equal(expected.rows(), _rows_in(engine, table))
        figures = run.in_turns(contestants)
    what = f"{size:,} observations from a CSV file to the clean series in MariaDB"
    return _compared(what, figures)


def _compared(what: str, figures: dict[str, list[float]]) -> list[Comparison]:
    return [
        Comparison(
            what,
            "s",
            figures["SEF"],
            peer,
            figures.get(peer, ()),
            Aim(at_most=1) if peer == PANDAS else None,
            "" if peer in figures else MISSING,
            "All three give the same rows, which is checked first. Only SEF can be given the same "
            "file again, or be stopped and go on; it commits every 1,000 lines, and stores with "
            "each point what it was made of. The others write once, into a table without that.",
        )
        for peer in (PANDAS, DUCKDB)
    ]


def observations(size: int) -> list[Seen]:
    """Of ten agents, half a year each in a million: holes, repeats, late ones, two sources."""
    chance, told = Random(1), [round(Decimal(price) * 10**8) for price in prices()]
    series = [_series(number, chance, told) for number in range(SERIES)]
    seen: list[Seen] = []
    while len(seen) < size:
        seen += [next(one) for one in series]
    del seen[size:]
    # Late by some places of its own series, as agents and their retries are.
    late = sorted(
        (place + (chance.randint(1, BEHIND) * SERIES if chance.random() < 0.1 else 0), place)
        for place in range(size)
    )
    return [seen[place] for _, place in late]


def _series(number: int, chance: Random, told: Sequence[int]) -> Iterator[Seen]:
    at, step = START - 100_000_000, 0
    while True:
        price = told[(31 * number + step) % len(told)]
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


class _Ours:
    """SEF's pure functions."""

    def __init__(self, seen: Sequence[Seen]) -> None:
        sources = (Source.PRIMARY, Source.REPLICA)
        self._given: list[list[Observation]] = [[] for _ in range(SERIES)]
        for series, source, at, price in seen:
            moment, amount = EPOCH + timedelta(seconds=at), Decimal(price).scaleb(-8)
            self._given[series].append(Observation(sources[source], moment, amount))
        self._made: list[list[Point]] = []

    def work(self) -> None:
        self._made = [clean_series(given, Rules()) for given in self._given]

    def rows(self) -> list[Row]:
        if not self._made:
            self.work()
        return [
            (
                series,
                (point.at - EPOCH) // timedelta(seconds=1),
                int(point.price.scaleb(9)),
                FLAGS.index(point.flag),
            )
            for series, points in enumerate(self._made)
            for point in points
        ]


class _Pandas:
    def __init__(self, seen: Sequence[Seen] | None = None) -> None:
        import pandas

        columns = ["series", "source", "ts", "price"]
        self._given = pandas.DataFrame(seen, columns=columns) if seen else pandas.DataFrame()
        self._made: pd.DataFrame | None = None

    @classmethod
    def from_csv(cls, path: Path) -> "_Pandas":
        import pandas

        read = pandas.read_csv(path)
        one = cls()
        one._given = pandas.DataFrame(
            {
                "series": read["agent_id"].str.removeprefix("agent-").astype("int64"),
                "source": read["is_replica"].astype("int64"),
                "ts": read["timestamp"],
                "price": (read["spot_price"] * 1e8).round().astype("int64"),
            }
        )
        one.work()
        return one

    def work(self) -> None:
        from bench.backfill_peers import by_pandas

        self._made = by_pandas(self._given)

    def rows(self) -> list[Row]:
        assert self._made is not None
        columns = [self._made[name].tolist() for name in ("series", "ts", "price", "flag")]
        return list(zip(*columns, strict=True))


class _Duckdb:
    def __init__(self, seen: Sequence[Seen] | None = None) -> None:
        import duckdb

        self._connection: duckdb.DuckDBPyConnection = duckdb.connect()
        self._connection.execute("SET threads = 2")
        if seen is not None:
            given = _Pandas(seen)._given
            self._connection.register("given", given)
            self._connection.execute(
                "CREATE TABLE observations AS SELECT *, row_number() OVER () AS arrival FROM given"
            )
            self._connection.unregister("given")

    @classmethod
    def from_csv(cls, path: Path) -> "_Duckdb":
        one = cls()
        one._connection.execute(
            "CREATE TABLE observations AS SELECT "
            "CAST(replace(agent_id, 'agent-', '') AS BIGINT) AS series, "
            "CAST(is_replica AS INT) AS source, CAST(timestamp AS BIGINT) AS ts, "
            "CAST(round(spot_price * 1e8) AS BIGINT) AS price, row_number() OVER () AS arrival "
            f"FROM read_csv('{path}')"
        )
        one.work()
        return one

    def work(self) -> None:
        from bench.backfill_peers import by_duckdb

        by_duckdb(self._connection)

    def rows(self) -> list[Row]:
        return self._connection.execute(
            "SELECT series, ts, price, flag FROM clean ORDER BY series, ts"
        ).fetchall()


def _insert(engine: Engine, rows: Sequence[Row]) -> None:
    """By the driver, a thousand rows a statement, in one transaction."""
    told = [
        (
            f"agent-{series}",
            POOL,
            datetime.fromtimestamp(at, UTC).replace(tzinfo=None),
            price / 10**9,
            FLAGS[flag].value,
        )
        for series, at, price, flag in rows
    ]
    with engine.begin() as connection:
        for start in range(0, len(told), AT_ONCE):
            connection.exec_driver_sql(INSERT, told[start : start + AT_ONCE])


def _rows_in(engine: Engine, table: str) -> list[Row]:
    columns = tables.pricing_reports.c
    wanted = select(
        columns.agent_id, columns.timestamp, columns.spot_price, columns.data_quality_flag
    ).order_by(columns.agent_id, columns.timestamp)
    with engine.connect() as connection:
        statement = str(wanted.compile(engine)).replace("pricing_reports", table)
        rows = connection.execute(text(statement)).all()
    return [
        (
            int(agent_id.rpartition("-")[2]),
            round(at.replace(tzinfo=UTC).timestamp()),
            int(price.scaleb(9)),
            FLAGS.index(Flag(flag)),
        )
        for agent_id, at, price, flag in rows
    ]


def _empty(engine: Engine) -> None:
    with engine.begin() as connection:
        for table in ("plain_points", *tables.metadata.tables):
            connection.execute(text(f"TRUNCATE {table}"))


def _timed(work: Callable[[], None]) -> Callable[[int], float]:
    def once(_: int) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return once


def _check_equal(expected: Sequence[Row], found: Sequence[Any]) -> None:
    if list(expected) == list(found):
        return
    pairs = zip(expected, found, strict=False)
    place = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
    place = min(len(expected), len(found)) if place is None else place
    raise RuntimeError(
        f"the results differ at row {place} of {len(expected)} and {len(found)}: "
        f"{expected[place : place + 1]} and {list(found)[place : place + 1]}"
    )
