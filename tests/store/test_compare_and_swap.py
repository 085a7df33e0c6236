"""Of two that have read the same version of a row, one changes it."""

from datetime import UTC, datetime

import pytest

from sef.store import fleet
from sef.store.database import Database, Stale
from sef.store.statements import swap
from sef.store.tables import agents

NOW = datetime(2024, 3, 1, tzinfo=UTC)


def test_the_second_of_two_changes_to_one_version_is_stale(database_url: str) -> None:
    database = Database(database_url)
    try:
        database.create_tables()
        database.write(lambda c: fleet.insert_agent(c, "a", NOW))
        read = database.read(lambda c: fleet.read_agent(c, "a"))
        with database.engine.begin() as connection:
            swap(connection, agents, {"id": "a"}, version=read.version, pool_id="first")
            with pytest.raises(Stale):
                swap(connection, agents, {"id": "a"}, version=read.version, pool_id="second")
        changed = database.read(lambda c: fleet.read_agent(c, "a"))
        assert (changed.pool_id, changed.version) == ("first", read.version + 1)
    finally:
        database.dispose()
