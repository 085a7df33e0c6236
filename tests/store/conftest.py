"""SEF on the database of a test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sef import config
from sef.clock import Clock, utc_now
from sef.cloud.simulation import Simulation
from sef.store.database import Database
from smart_emergency_fallback import SmartEmergencyFallback
from tests.mariadb import MariaDB
from tests.store.rows import empty

MakeSef = Callable[..., SmartEmergencyFallback]


@pytest.fixture(scope="session")
def mariadb_with_tables(mariadb: MariaDB) -> Iterator[str]:
    """A database with SEF's tables: to make them anew for each test takes most of its time."""
    name = f"sef_{uuid4().hex}"
    mariadb.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    database = Database(mariadb.url(name))
    database.create_tables()
    database.dispose()
    yield mariadb.url(name)
    mariadb.execute(f"DROP DATABASE {name}")


@pytest.fixture
def mariadb_url(mariadb_with_tables: str) -> str:
    """A database whose tables are empty."""
    empty(mariadb_with_tables)
    return mariadb_with_tables


@pytest.fixture
def make_sef(database_url: str, shared_simulation: tuple[Path, Simulation]) -> Iterator[MakeSef]:
    """Makes façades, each with connections of its own; on the test's database unless told."""
    made = []
    defaults = {"jobs": False, "var": shared_simulation[0], "simulated_pending": 0}

    def make(
        source: Any = None, *, clock: Clock = utc_now, **settings: Any
    ) -> SmartEmergencyFallback:
        sef = SmartEmergencyFallback(
            source or database_url, settings=config.load(**defaults | settings), clock=clock
        )
        made.append(sef)
        return sef

    yield make
    for sef in made:
        sef.close()


@pytest.fixture
def sef(make_sef: MakeSef) -> SmartEmergencyFallback:
    return make_sef()
