"""What tests run on: real databases, the simulated EC2, and the façade on top of both."""

import os
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
from tests.harness import World, restore
from tests.mariadb import MariaDB
from tests.mysql import MySQL
from tests.private_server import PrivateServer

ON_CI = os.environ.get("CI", "").lower() in {"1", "true"}
CLUSTER = Path(__file__).parent / "cluster"
NO_SERVER = "there is no MariaDB server on this machine (sudo apt install mariadb-server)"
NO_MYSQL = "MySQL 9 is not unpacked (python -m tests.mysql)"

neutralize()

# On a busy machine an example may take long to draw, and that is no defect.
settings.register_profile(
    "sef", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("sef-ci", settings.get_profile("sef"), derandomize=True, database=None)
settings.load_profile("sef-ci" if ON_CI else "sef")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mysql", action="store_true", help="MySQL 9 in the place of MariaDB; nothing on SQLite"
    )
    parser.addoption(
        "--cluster", action="store_true", help="with the tests on three nodes of a Galera cluster"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    is_left_out = collection_path == CLUSTER and not config.getoption("--cluster")
    return True if is_left_out else None


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
    """A server of this test process alone; who takes it away starts it again."""
    wanted, found, missing = MariaDB, mariadb_server.find(), NO_SERVER
    if pytestconfig.getoption("--mysql"):
        wanted, found, missing = MySQL, mysql_server.find(), NO_MYSQL
    if found is None:
        if ON_CI:
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    server = wanted()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def mariadb_with_tables(mariadb: PrivateServer) -> Iterator[str]:
    """A database with SEF's tables: to make them anew for each test takes most of its time."""
    name = f"sef_{uuid.uuid4().hex}"
    mariadb.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    database = Database(mariadb.url(name))
    database.create_tables()
    database.dispose()
    yield mariadb.url(name)
    mariadb.drop(name)


@pytest.fixture
def mariadb_url(mariadb_with_tables: str) -> str:
    """A database on MariaDB whose tables are empty."""
    empty(mariadb_with_tables)
    return mariadb_with_tables


@pytest.fixture
def bare_mariadb_url(mariadb: PrivateServer) -> Iterator[str]:
    """A database on MariaDB without any table."""
    name = f"sef_{uuid.uuid4().hex}"
    mariadb.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    yield mariadb.url(name)
    mariadb.drop(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An empty database in a file."""
    return f"sqlite:///{tmp_path / 'sef.db'}"


@pytest.fixture(params=["sqlite", "mariadb"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database; a test that takes it runs once on each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(scope="session")
def shared_simulation(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, Simulation]]:
    """The simulated EC2 of this test process, and the folder it lives in."""
    var = tmp_path_factory.mktemp("simulated-ec2")
    simulation = ensure_running(var, pending_seconds=0)
    yield var, simulation
    simulation.stop()


@pytest.fixture
def simulation(shared_simulation: tuple[Path, Simulation]) -> Iterator[Simulation]:
    """The simulated EC2 without instances and faults, and with capacity everywhere."""
    _, simulation = shared_simulation
    yield simulation
    restore(simulation)


@pytest.fixture
def sef_settings(shared_simulation: tuple[Path, Simulation], database_url: str) -> Settings:
    """Settings on `database_url` and the simulated EC2, with the periodic jobs off."""
    var, _ = shared_simulation
    return Settings(var=var, database_url=database_url, simulator_pending_seconds=0, run_jobs=False)


@pytest.fixture
def make_sef(
    sef_settings: Settings, simulation: Simulation
) -> Iterator[Callable[..., SmartEmergencyFallback]]:
    """Build façades: `make_sef(clock=..., max_instances=1)`, each with its own connections.

    They use the test's database unless another source is given: `make_sef(connection)`.
    """
    made: list[SmartEmergencyFallback] = []

    def make(
        source: Any = None, *, clock: Clock = utc_now, **changes: Any
    ) -> SmartEmergencyFallback:
        settings = sef_settings.model_copy(update=changes)
        source = source or settings.database
        made.append(SmartEmergencyFallback(source, settings=settings, clock=clock))
        return made[-1]

    yield make
    for sef in made:
        sef.close()


@pytest.fixture
def sef(make_sef: Callable[..., SmartEmergencyFallback]) -> SmartEmergencyFallback:
    return make_sef()


@pytest.fixture(autouse=True)
def _boto3_retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def world(simulation: Simulation, sef_settings: Settings) -> Iterator[World]:
    """A story's clock, simulated EC2 and rows, and the invariants that hold at its end."""
    world = World(simulation, sef_settings)
    yield world
    world.close()
    simulation.set_options(
        visible_after_seconds=0, refuse_token_of_terminated=True, healthy_after_seconds=0
    )


def pytest_report_header(config: pytest.Config) -> str:
    if config.getoption("--mysql"):
        return f"in the place of MariaDB: {mysql_server.find() or NO_MYSQL}"
    return f"mariadb: {mariadb_server.find() or 'none found'}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.stats.get("skipped", [])
    for missing in (NO_SERVER, NO_MYSQL):
        skipped = sum(missing in str(report.longrepr) for report in reports)
        if skipped:
            terminalreporter.write_line(f"{skipped} tests did not run: {missing}.", yellow=True)
