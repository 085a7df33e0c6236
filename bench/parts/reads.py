"""Requests of a dashboard: sef-status and pages of the fleet, with many agents and with few."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from random import Random

from sqlalchemy import Engine

from bench import fleet, servers, wrk
from bench.parts.reports import WORKERS
from bench.results import Aim, Comparison
from bench.schedule import Run
from bench.workload import EVERY, agents
from sef.notifications.events import Event, write_events

FEW, MANY = 100, 100_000
POINTS = 24
PAGE = 50
CONNECTIONS = 4
PAGES = ("sef-status of a random agent", f"a random fleet page of {PAGE} agents")
MOST_A_SECOND = 5_000


def measure(run: Run) -> Sequence[Comparison]:
    """Measure with a standby and an incident for one agent in ten."""
    many, seconds = run.size(MANY, 2000), run.size(4, 1)
    contestants: dict[tuple[str, int], Callable[[int], float]] = {}
    with ExitStack() as stack:
        server = stack.enter_context(servers.mariadb())
        for size in (FEW, many):
            run.say(f"{size:,} agents")
            name = f"agents_{size}"
            engine = stack.enter_context(fleet.tables_in(server, name))
            names = agents(size)
            populate(engine, names)
            # SEF must not check the standbys, which do not exist in EC2, nor the silent agents.
            quiet = {
                "SEF_STANDBY_CHECK_INTERVAL_SECONDS": "86400",
                "SEF_SILENCE_THRESHOLD_SECONDS": "0",
            }
            sef = stack.enter_context(
                servers.sef(server.url(name), run.home / "var", workers=WORKERS, **quiet)
            )
            for page, requests in zip(PAGES, (statuses, pages), strict=True):

                def ask(
                    number: int,
                    names: Sequence[str] = names,
                    sef: servers.Served = sef,
                    page: str = page,
                    requests: Callable[[Sequence[str], Random], Iterator[wrk.Request]] = requests,
                ) -> float:
                    with run.watched(sef.pid, f"{page}, of {len(names):,}"):
                        return wrk.send(
                            sef,
                            requests(names, Random(number)),
                            home=run.home,
                            connections=CONNECTIONS,
                            seconds=1 if number < 0 else seconds,
                            method="GET",
                            most=MOST_A_SECOND,
                        ).p99

                contestants[page, size] = ask
        figures = run.in_turns(contestants, warm_up=True)
    return [
        Comparison(
            f"{page}, {many:,} agents, p99",
            "ms",
            figures[page, many],
            f"the same with {FEW} agents",
            figures[page, FEW],
            Aim(at_most=2),
        )
        for page in PAGES
    ]


def populate(engine: Engine, names: Sequence[str]) -> None:
    """Insert agents with two hours of prices and the event of their first report."""
    now = datetime.now(UTC)
    fleet.register(engine, names, now)
    fleet.fill(engine, names, POINTS, int(now.timestamp()) // EVERY * EVERY)
    events = [
        Event("agent_registered", f"{name} reports for the first time", name) for name in names
    ]
    for start in range(0, len(events), fleet.ROWS_PER_INSERT):
        with engine.begin() as connection:
            write_events(connection, events[start : start + fleet.ROWS_PER_INSERT], now)
    some = names[::10]
    with_instances = [(name, f"i-{number:017x}") for number, name in enumerate(some)]
    with engine.begin() as connection:
        incidents = fleet.open_incidents(connection, with_instances, now - timedelta(minutes=2))
        fleet.give_standbys(connection, some, now, incidents=incidents)


def statuses(names: Sequence[str], chance: Random) -> Iterator[wrk.Request]:
    while True:
        yield f"/api/agents/{chance.choice(names)}/sef-status", ""


def pages(names: Sequence[str], chance: Random) -> Iterator[wrk.Request]:
    while True:
        after = names[chance.randrange(len(names) - PAGE)]
        yield f"/api/agents?limit={PAGE}&after={after}", ""
