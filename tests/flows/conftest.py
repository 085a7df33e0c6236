"""The stage that every story plays on."""

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine

from sef.cloud.simulation import Simulation
from sef.config import Settings
from sef.store.tables import metadata
from tests.flows.world import World
from tests.mariadb import MariaDB


@pytest.fixture(scope="session")
def story_database(mariadb: MariaDB) -> Iterator[str]:
    """The tables on MariaDB, made once: to make them takes longer than most stories."""
    mariadb.execute("CREATE DATABASE stories CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    url = f"{mariadb.url('stories')}?charset=utf8mb4&collation=utf8mb4_bin"
    engine = create_engine(url)
    metadata.create_all(engine)
    engine.dispose()
    yield url
    mariadb.execute("DROP DATABASE stories")


@pytest.fixture
def mariadb_url(story_database: str) -> str:
    """Empty tables on MariaDB."""
    engine = create_engine(story_database)
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.delete())
    engine.dispose()
    return story_database


@pytest.fixture
def world(simulation: Simulation, sef_settings: Settings) -> Iterator[World]:
    world = World(simulation, sef_settings)
    yield world
    world.close()
    simulation.set_options(visible_after_seconds=0, refuse_token_of_terminated=True)
