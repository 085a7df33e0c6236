"""Reports in a POST each: SEF against a JSON route, a plain INSERT and InfluxDB."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice

from bench import servers, wrk
from bench.clients import send_all
from bench.results import Aim, Comparison
from bench.schedule import Run
from bench.workload import EVERY, INFLUX_PATH, START, Report, agents, as_batches, in_order

WORKERS = 2
CONNECTIONS = (32, 256)
AGENTS = 2000
SIZE = 1000
LATER = 1_000_000
"""Seconds between the reports of two measurements, so that no report is a repeat."""

SEF_PATH = "/api/agents/{}/pricing"
JSON_ROUTE = "a JSON route that validates and responds, same server"
BEFORE = "one INSERT and COMMIT per request, same server"
INFLUXDB = "InfluxDB, one write per point, fsync"
AIMS = {JSON_ROUTE: 0.6, BEFORE: 3, INFLUXDB: 0.6}


def measure(run: Run) -> Sequence[Comparison]:
    names = agents(run.size(AGENTS, 500))
    with ExitStack() as stack:
        server = stack.enter_context(servers.mariadb())
        url = server.url("sef")
        sef = stack.enter_context(servers.sef(url, run.home / "var", workers=WORKERS))
        peer = stack.enter_context(servers.peer(url, workers=WORKERS))
        influxdb = stack.enter_context(servers.influxdb(run.home / "influxdb"))
        starts = iter(range(START, START * 2, LATER))

        def seconds(number: int) -> int:
            return 1 if number < 0 else run.size(6, 1)

        def on_sef(connections: int) -> Callable[[int], float]:
            def once(number: int) -> float:
                start = next(starts)
                greet(sef, names, start - EVERY)
                reports = in_order(names, start)
                with run.watched(sef.pid, f"one report per POST, {connections} connections"):
                    return send_singles(run, sef, reports, connections, seconds(number))

            return once

        def on_peer(
            base: str, of: Callable[[Iterator[Report]], Iterator[wrk.Request]], connections: int
        ) -> Callable[[int], float]:
            def once(number: int) -> float:
                reports = of(in_order(names, next(starts)))
                return send(run, base, reports, connections, seconds(number))

            return once

        contestants = {}
        for connections in CONNECTIONS:
            contestants["SEF", connections] = on_sef(connections)
            for against, path in ((JSON_ROUTE, "/validate/{}"), (BEFORE, "/before/{}")):
                contestants[against, connections] = on_peer(
                    peer, partial(singles, path), connections
                )
            if influxdb is not None:
                contestants[INFLUXDB, connections] = on_peer(influxdb, lines, connections)
        figures = run.in_turns(contestants, warm_up=True)
    return [
        Comparison(
            f"one report per POST, {connections} connections",
            "reports/s",
            figures["SEF", connections],
            against,
            figures.get((against, connections), ()),
            Aim(at_least=limit),
            "" if (against, connections) in figures else servers.NO_INFLUXDB,
        )
        for connections in CONNECTIONS
        for against, limit in AIMS.items()
    ]


def send(
    run: Run, base: str, requests: Iterable[wrk.Request], connections: int, seconds: int
) -> float:
    """Send requests with wrk; return answers per second."""
    return wrk.send(base, requests, home=run.home, connections=connections, seconds=seconds).rate


def send_singles(
    run: Run, sef: str, reports: Iterable[Report], connections: int, seconds: int
) -> float:
    """Send one report per POST to SEF; return reports per second."""
    return send(run, sef, singles(SEF_PATH, reports), connections, seconds)


def greet(base: str, names: Sequence[str], at: int, twice: Sequence[str] = ()) -> None:
    """Send a first report of each agent, and for the agents of `twice` also one by a replica.

    Later reports then begin no series and open no gap.
    """
    reports = [*islice(in_order(names, at), len(names))]
    reports += [one._replace(is_replica=True) for one in islice(in_order(twice, at), len(twice))]
    many = -(-len(reports) // SIZE)
    send_all(base, [as_batches(reports, SIZE, many)])


def singles(path: str, reports: Iterable[Report]) -> Iterator[wrk.Request]:
    return ((path.format(one.agent_id), one.body()) for one in reports)


def lines(reports: Iterable[Report]) -> Iterator[wrk.Request]:
    return ((INFLUX_PATH, one.line()) for one in reports)
