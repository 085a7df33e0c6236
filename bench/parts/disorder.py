"""Reports that arrive late, twice, or from two sources: SEF against itself with all in order."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime

from sqlalchemy import Engine

from bench import fleet, servers
from bench.clients import Answer, send_all
from bench.parts.reports import LATER, WORKERS, greet, send_singles
from bench.results import Aim, Comparison
from bench.schedule import Run
from bench.workload import EVERY, START, Report, agents, as_batches, duals, in_disorder, in_order

CONNECTIONS = 32
AGENTS = 2000
SIZE, SENDERS = 1000, 4
AGENTS_OF_A_SENDER = 100
IN_TURN, MIXED = "in order", "in disorder"
IN_ORDER = "the same work, in order and from one source"
WHAT = "1 in 10 reports late, 1 in 10 repeated, half of the agents with two sources"


def measure(run: Run) -> Sequence[Comparison]:
    """Measure with a ready standby per agent with two sources, so that half a pair is buffered."""
    seconds, batches = run.size(6, 1), run.size(40, 8)
    with ExitStack() as stack:
        server = stack.enter_context(servers.mariadb())
        engine = stack.enter_context(fleet.tables_in(server, "disorder"))
        # The standbys do not exist in EC2, so SEF must not check them.
        quiet = {"SEF_STANDBY_CHECK_INTERVAL_SECONDS": "86400"}
        sef = stack.enter_context(
            servers.sef(server.url("disorder"), run.home / "var", workers=WORKERS, **quiet)
        )
        contestants: dict[tuple[str, str], Callable[[int], float]] = {}
        for order, stream in ((IN_TURN, in_order), (MIXED, in_disorder)):
            names = _agents(engine, f"{order}-single", run.size(AGENTS, 500))
            senders = [
                stream(_agents(engine, f"{order}-batch{n}", AGENTS_OF_A_SENDER), START)
                for n in range(SENDERS)
            ]

            def by_wrk(
                number: int,
                names: Sequence[str] = names,
                stream: Callable[[Sequence[str], int], Iterator[Report]] = stream,
                order: str = order,
            ) -> float:
                start = START + LATER * number
                greet(sef, names, start - EVERY, twice=duals(names) if order != IN_TURN else ())
                reports = stream(names, start)
                with run.watched(sef.pid, f"one report per POST, {order}"):
                    return send_singles(run, sef, reports, CONNECTIONS, seconds)

            def by_batch(
                _: int, senders: Sequence[Iterator[Report]] = senders, order: str = order
            ) -> float:
                shares = [as_batches(one, SIZE, batches // SENDERS) for one in senders]
                with run.watched(sef.pid, f"batches of 1,000, {order}"):
                    taken, _ = send_all(sef, shares, check=_none_rejected)
                return SIZE * batches / taken

            contestants["one report per POST", order] = by_wrk
            contestants["batches of 1,000", order] = by_batch
        figures = run.in_turns(contestants, warm_up=True)
    return [
        Comparison(
            f"{way}; {WHAT}",
            "reports/s",
            figures[way, MIXED],
            IN_ORDER,
            figures[way, IN_TURN],
            Aim(at_least=0.5),
        )
        for way in dict.fromkeys(way for way, _ in figures)
    ]


def _agents(engine: Engine, name: str, size: int) -> list[str]:
    names = agents(size, name.replace(" ", "-"))
    now = datetime.now(UTC)
    fleet.register(engine, names, now)
    if name.startswith(MIXED):
        with engine.begin() as connection:
            fleet.give_standbys(connection, duals(names), now)
    return names


def _none_rejected(answer: Answer) -> bool:
    return answer.status == 200 and not json.loads(answer.body)["rejected"]
