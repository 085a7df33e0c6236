"""The databases that tests run on: a private MariaDB server, and SQLite."""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.mariadb import MariaDB, find_program, is_installed

ON_CI = os.environ.get("CI", "").lower() in {"1", "true"}
NO_SERVER = "there is no MariaDB server on this machine (sudo apt install mariadb-server)"

settings.register_profile("sef", deadline=None, print_blob=True)
settings.register_profile("sef-ci", settings.get_profile("sef"), derandomize=True, database=None)
settings.load_profile("sef-ci" if ON_CI else "sef")


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """A server of this test process alone: a test may stop it, kill it and start it again."""
    if not is_installed():
        if ON_CI:
            pytest.fail(NO_SERVER, pytrace=False)
        pytest.skip(NO_SERVER)
    server = MariaDB(tmp_path_factory.mktemp("mariadb"))
    server.start()
    yield server
    server.kill()
    shutil.rmtree(server.folder)


@pytest.fixture
def mariadb_url(mariadb: MariaDB) -> Iterator[str]:
    """An empty database on MariaDB."""
    mariadb.start()  # the test before may have taken it away
    name = f"sef_{uuid.uuid4().hex}"
    mariadb.create_database(name)
    yield mariadb.url(name)
    mariadb.start()
    mariadb.drop_database(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An empty database in a file."""
    return f"sqlite:///{tmp_path / 'sef.db'}"


@pytest.fixture(params=["sqlite", "mariadb"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database; a test that takes it runs once on each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


def pytest_report_header() -> str:
    return f"mariadb: {find_program('mariadbd') if is_installed() else 'none found'}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if NO_SERVER in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} tests did not run: {NO_SERVER}.", yellow=True, bold=True
        )
