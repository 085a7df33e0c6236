"""The stage on which backends die."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sef.config import Settings
from sef.db.database import Database
from sef.simulator.client import Simulation
from tests.crash.fork_server import Nursery
from tests.crash.harness import Stage
from tests.harness import World


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def stage(
    simulation: Simulation, nursery: Nursery, sef_settings: Settings, tmp_path: Path
) -> Iterator[Stage]:
    database = Database(sef_settings.database_url)
    database.create_tables()
    database.dispose()
    world = World(simulation, sef_settings)
    stage = Stage(world, nursery, sef_settings.database_url, tmp_path)
    yield stage
    stage.close()
    world.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", [])
        if name == "crashes" and report.when == "call"
    ]
    for database in sorted({database for database, _, _ in told}):
        counts = [(done, wrong) for name, done, wrong in told if name == database]
        done, wrong = (sum(column) for column in zip(*counts, strict=True))
        terminalreporter.write_line(f"{database}: {done} crashes, {wrong} of which went wrong.")
