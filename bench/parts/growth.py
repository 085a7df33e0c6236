"""Reports into a table with millions of points: SEF against itself with an empty table."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime

from sqlalchemy import Engine, text

from bench import fleet, servers
from bench.clients import send_all
from bench.parts.batches import all_taken
from bench.parts.reports import LATER, WORKERS, greet, send_singles
from bench.results import Aim, Comparison
from bench.schedule import Run
from bench.workload import EVERY, START, agents, as_batches, in_order

AGENTS = 2000
ROWS = (100_000, 1_000_000, 10_000_000)
QUICK_ROWS = (10_000, 20_000)
REFILLED = 100_000
"""Largest table that is emptied and filled again before each measurement."""
CONNECTIONS = 32
SIZE, SENDERS = 1000, 4
SINGLES, BATCHES = "one report per POST", "batches of 1,000 reports"
EMPTY = "the same work with an empty table"


def measure(run: Run) -> Sequence[Comparison]:
    names = agents(run.size(AGENTS, 200))
    sizes = QUICK_ROWS if run.is_quick else ROWS
    seconds, batches = run.size(5, 1), run.size(40, 4)
    starts = iter(range(START, 2 * START, LATER))
    contestants: dict[tuple[str, int], Callable[[int], float]] = {}
    with ExitStack() as stack:
        server = stack.enter_context(servers.mariadb())
        for rows in (0, *sizes):
            run.say(f"a table of {rows:,} points")
            name = f"rows_{rows}"
            engine = stack.enter_context(fleet.tables_in(server, name))
            fleet.register(engine, names, datetime.now(UTC))
            fleet.fill(engine, names, rows // len(names), START)
            # The servers share a simulated EC2: they launch nothing.
            sef = stack.enter_context(
                servers.sef(server.url(name), run.home / "var", workers=WORKERS)
            )

            def prepared(
                engine: Engine = engine, rows: int = rows, sef: servers.Served = sef
            ) -> int:
                if rows <= REFILLED:
                    refill(engine, names, rows)
                start = next(starts)
                greet(sef, names, start - EVERY)
                return start

            def by_wrk(
                _: int, prepared: Callable[[], int] = prepared, sef: servers.Served = sef
            ) -> float:
                start = prepared()
                return send_singles(run, sef, in_order(names, start), CONNECTIONS, seconds)

            def by_batch(
                _: int, prepared: Callable[[], int] = prepared, sef: servers.Served = sef
            ) -> float:
                start = prepared()
                streams = [in_order(names[n::SENDERS], start) for n in range(SENDERS)]
                shares = [as_batches(one, SIZE, batches // SENDERS) for one in streams]
                taken, _ = send_all(sef, shares, check=all_taken)
                return SIZE * batches / taken

            contestants[SINGLES, rows] = by_wrk
            contestants[BATCHES, rows] = by_batch
        figures = run.in_turns(contestants, warm_up=True)
    return [
        Comparison(
            f"{way}, {rows:,} points in the table",
            "reports/s",
            figures[way, rows],
            EMPTY,
            figures[way, 0],
            Aim(at_least=0.9),
        )
        for way in (SINGLES, BATCHES)
        for rows in sizes
    ]


def refill(engine: Engine, names: Sequence[str], rows: int) -> None:
    """Empty the tables and insert the points again."""
    with engine.begin() as connection:
        for table in ("pricing_reports", "price_series"):
            connection.execute(text(f"TRUNCATE {table}"))
    fleet.begin_series(engine, names)
    fleet.fill(engine, names, rows // len(names), START)
