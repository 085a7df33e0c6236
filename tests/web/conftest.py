"""The HTTP API, in process and as a real server.

Tests run on SQLite. A test that also proves something about the database names its kinds:
`@pytest.mark.databases("sqlite", "mariadb")`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from sef import config
from sef.main import create_app
from sef.simulator.client import Simulation
from sef.simulator.process import ensure_running
from tests.web.dry_run_harness import POOL, Harness
from tests.web.server import Server

NO_CLOUD = {"cloud": "aws", "region": "us-east-1", "ec2_endpoint": "http://127.0.0.1:9"}
"""Settings of tests that need no EC2. A call to EC2 by mistake fails: the port is closed."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_kind" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("databases")
        kinds = marker.args if marker else ("sqlite",)
        metafunc.parametrize("database_kind", kinds, scope="module")


@pytest.fixture
def database_url(database_kind: str, request: pytest.FixtureRequest) -> str:
    """An empty database."""
    return str(request.getfixturevalue(f"{database_kind}_url"))


@pytest.fixture(scope="session")
def simulated_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a simulated EC2 whose instances run at once."""
    folder = tmp_path_factory.mktemp("simulated")
    simulation = ensure_running(folder, pending_seconds=0)
    yield folder
    simulation.stop()


@pytest.fixture
def simulation(simulated_folder: Path) -> Simulation:
    return ensure_running(simulated_folder)


@pytest.fixture
def make_app(database_url: str) -> Iterator[Callable[..., Flask]]:
    """Build backend applications, on the test's database unless another one is given."""
    made = []

    def make(**settings: Any) -> Flask:
        given = {
            "database_url": database_url,
            "run_jobs": False,
            "simulator_pending_seconds": 0.0,
        } | settings
        made.append(create_app(config.load(**given)))
        return made[-1]

    yield make
    for app in made:
        app.extensions["sef"].close()


@pytest.fixture
def client(make_app: Callable[..., Flask]) -> FlaskClient:
    """A client of an application without EC2."""
    return make_app(**NO_CLOUD).test_client()


@pytest.fixture
def cloud_client(make_app: Callable[..., Flask], simulated_folder: Path) -> FlaskClient:
    """A client of an application with the simulated EC2, whose instances run at once."""
    return make_app(var=simulated_folder).test_client()


@pytest.fixture(scope="module")
def module_database(
    database_kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A database for all tests of a module."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('module') / 'sef.db'}"
        return
    mariadb = request.getfixturevalue("mariadb")
    name = f"sef_{uuid4().hex}"
    mariadb.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    yield mariadb.url(name)
    mariadb.execute(f"DROP DATABASE {name}")


@pytest.fixture(scope="module")
def module_client(module_database: str) -> Iterator[FlaskClient]:
    """A client for all tests of a module that store nothing, or use agents of their own."""
    app = create_app(config.load(database_url=module_database, run_jobs=False, **NO_CLOUD))
    yield app.test_client()
    app.extensions["sef"].close()


@pytest.fixture(scope="module")
def server(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server without EC2, for all tests of a module."""
    server = Server(tmp_path_factory.mktemp("server"), module_database, SEF_CLOUD="aws")
    yield server
    server.stop()


@pytest.fixture
def harness(
    make_app: Callable[..., Flask],
    simulated_folder: Path,
    simulation: Simulation,
    database_url: str,
) -> Iterator[Harness]:
    """An agent without a mode, with a running primary."""
    harness = Harness(make_app(var=simulated_folder, enable_wait_seconds=0.5), database_url)
    harness.client.put("/api/agents/a", json={"pool_id": POOL})
    harness.post("manual-replica/enable")
    assert harness.post("manual-switch")["code"] == 200
    harness.post("manual-replica/disable")
    yield harness
    harness.close()
