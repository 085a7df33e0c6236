"""Provide the stage of the crash tests, and print the number of crashes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sef.config import Settings
from sef.db.database import Database
from tests.crash.fork_server import ForkServer
from tests.crash.harness import Stage
from tests.harness import TrackedSimulation, World


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    fork_server = ForkServer()
    yield fork_server
    fork_server.close()


@pytest.fixture
def stage(
    simulation: TrackedSimulation, fork_server: ForkServer, sef_settings: Settings, tmp_path: Path
) -> Iterator[Stage]:
    database = Database(sef_settings.database_url)
    database.create_tables()
    database.dispose()
    world = World(simulation, sef_settings)
    stage = Stage(world, simulation, fork_server, sef_settings.database_url, tmp_path)
    yield stage
    stage.close()
    world.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    results = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", [])
        if name == "crashes" and report.when == "call"
    ]
    for database in sorted({database for database, _, _ in results}):
        counts = [(done, failed) for name, done, failed in results if name == database]
        done, failed = (sum(column) for column in zip(*counts, strict=True))
        terminalreporter.write_line(f"{database}: {done} crashes, {failed} failed.")
