"""Provide real databases, the simulated EC2, and the façade on top of both."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.endpoint
import pytest
from hypothesis import HealthCheck, settings

from sef.clock import Clock, utc_now
from sef.config import Settings
from sef.db.database import Database
from sef.simulator.client import Simulation
from sef.simulator.process import ensure_running
from smart_emergency_fallback import SmartEmergencyFallback
from tests import mariadb as mariadb_server
from tests import mysql as mysql_server
from tests.db.rows import empty
from tests.environment import neutralize
from tests.harness import TrackedSimulation, World
from tests.mariadb import MariaDB
from tests.mysql import MySQL
from tests.private_server import PrivateServer

ON_CI = os.environ.get("CI", "").lower() in {"1", "true"}
CLUSTER = Path(__file__).parent / "cluster"
NO_SERVER = "MariaDB is not installed (sudo apt install mariadb-server)"
NO_MYSQL = "MySQL 9 is not unpacked (python -m tests.mysql)"

neutralize()

# On a busy machine it may take long to generate an example; that is not a failure.
settings.register_profile(
    "sef", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("sef-ci", settings.get_profile("sef"), derandomize=True, database=None)
settings.load_profile("sef-ci" if ON_CI else "sef")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mysql", action="store_true", help="use MySQL 9 instead of MariaDB, and skip SQLite"
    )
    parser.addoption(
        "--cluster",
        action="store_true",
        help="run also the tests on a Galera cluster of three nodes",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    is_ignored = collection_path == CLUSTER and not config.getoption("--cluster")
    return True if is_ignored else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--mysql"):
        kept = [item for item in items if not _is_on_sqlite(item)]
        config.hook.pytest_deselected(items=[item for item in items if _is_on_sqlite(item)])
        items[:] = kept


def _is_on_sqlite(item: pytest.Item) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return "sqlite" in parameters.values() or "sqlite_url" in parameters.values()


@pytest.fixture(scope="session")
def mariadb(pytestconfig: pytest.Config) -> Iterator[PrivateServer]:
    """Yield the server of this test process; a test that stops it must start it again."""
    kind, program, reason = MariaDB, mariadb_server.find(), NO_SERVER
    if pytestconfig.getoption("--mysql"):
        kind, program, reason = MySQL, mysql_server.find(), NO_MYSQL
    if program is None:
        if ON_CI:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    server = kind()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def mariadb_with_tables(mariadb: PrivateServer) -> Iterator[str]:
    """Yield a database with SEF's tables; to create them for each test would take too long."""
    name = f"sef_{uuid.uuid4().hex}"
    mariadb.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    database = Database(mariadb.url(name))
    database.create_tables()
    database.dispose()
    yield mariadb.url(name)
    mariadb.drop(name)


@pytest.fixture
def mariadb_url(mariadb_with_tables: str) -> str:
    """Return a MariaDB database whose tables have no rows."""
    empty(mariadb_with_tables)
    return mariadb_with_tables


@pytest.fixture
def bare_mariadb_url(mariadb: PrivateServer) -> Iterator[str]:
    """Yield a MariaDB database without tables."""
    name = f"sef_{uuid.uuid4().hex}"
    mariadb.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    yield mariadb.url(name)
    mariadb.drop(name)


@pytest.fixture
def bare_sqlite_url(tmp_path: Path) -> str:
    """Return a SQLite database without tables, in a file."""
    return f"sqlite:///{tmp_path / 'sef.db'}"


@pytest.fixture(scope="session")
def sqlite_with_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with SEF's tables; to create them for each test would take too long."""
    file = tmp_path_factory.mktemp("sqlite") / "sef.db"
    database = Database(f"sqlite:///{file}")
    database.create_tables()
    database.dispose()
    return file


@pytest.fixture
def sqlite_url(bare_sqlite_url: str, sqlite_with_tables: Path, tmp_path: Path) -> str:
    """Return a SQLite database whose tables have no rows."""
    shutil.copy(sqlite_with_tables, tmp_path / "sef.db")
    return bare_sqlite_url


@pytest.fixture(params=["sqlite", "mariadb"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Return a database without rows; a test with this fixture runs once on each kind."""
    kind = request.param
    if kind == "once":
        kind = "mariadb" if request.config.getoption("--mysql") else "sqlite"
    return str(request.getfixturevalue(f"{kind}_url"))


@pytest.fixture(scope="session")
def shared_simulation(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, TrackedSimulation]]:
    """Yield the simulated EC2 of this test process, and its folder."""
    var = tmp_path_factory.mktemp("simulated-ec2")
    simulation = TrackedSimulation(ensure_running(var, pending_seconds=0).endpoint)
    simulation.restore()
    yield var, simulation
    simulation.stop()


@pytest.fixture
def simulation(shared_simulation: tuple[Path, TrackedSimulation]) -> Iterator[TrackedSimulation]:
    """Yield the simulated EC2 without instances or faults, and with capacity in every pool."""
    _, simulation = shared_simulation
    yield simulation
    simulation.restore()


@pytest.fixture
def sef_settings(shared_simulation: tuple[Path, Simulation], database_url: str) -> Settings:
    """Return settings for `database_url` and the simulated EC2, without periodic jobs."""
    var, _ = shared_simulation
    return Settings(var=var, database_url=database_url, simulator_pending_seconds=0, run_jobs=False)


@pytest.fixture
def make_sef(
    sef_settings: Settings, simulation: Simulation
) -> Iterator[Callable[..., SmartEmergencyFallback]]:
    """Yield a function that builds a façade: `make_sef(clock=..., max_instances=1)`.

    Each façade has its own connections to the test's database, or uses a source that is passed:
    `make_sef(connection)`.
    """
    created: list[SmartEmergencyFallback] = []

    def make(
        source: Any = None, *, clock: Clock = utc_now, **changes: Any
    ) -> SmartEmergencyFallback:
        settings = sef_settings.model_copy(update=changes)
        source = source or settings.database
        created.append(SmartEmergencyFallback(source, settings=settings, clock=clock))
        return created[-1]

    yield make
    for sef in created:
        sef.close()


@pytest.fixture
def sef(make_sef: Callable[..., SmartEmergencyFallback]) -> SmartEmergencyFallback:
    return make_sef()


@pytest.fixture(autouse=True)
def _boto3_retries_without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def world(simulation: Simulation, sef_settings: Settings) -> Iterator[World]:
    """Yield the clock, simulated EC2, rows and invariants of a story."""
    world = World(simulation, sef_settings)
    yield world
    world.close()


def pytest_report_header(config: pytest.Config) -> str:
    if config.getoption("--mysql"):
        return f"instead of MariaDB: {mysql_server.find() or NO_MYSQL}"
    return f"mariadb: {mariadb_server.find() or 'none found'}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.stats.get("skipped", [])
    for reason in (NO_SERVER, NO_MYSQL):
        skipped = sum(reason in str(report.longrepr) for report in reports)
        if skipped:
            terminalreporter.write_line(f"{skipped} tests did not run: {reason}.", yellow=True)
