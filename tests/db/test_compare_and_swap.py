"""Let only one of two writers that read the same version of a row change it."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError

from sef.agents import insert_agent, read_agent
from sef.db.database import DUPLICATE_ATTEMPTS, Database, VersionConflict
from sef.db.statements import swap
from sef.db.tables import agents
from smart_emergency_fallback import SmartEmergencyFallback
from tests.db.rows import stored_points
from tests.private_server import PrivateServer

NOW = datetime(2024, 3, 1, tzinfo=UTC)


def test_the_second_change_of_one_version_is_a_conflict(database_url: str) -> None:
    database = Database(database_url)
    try:
        database.create_tables()
        database.write(insert_agent, "a", NOW)
        read = database.read(read_agent, "a")
        with database.engine.begin() as connection:
            swap(connection, agents, {"id": "a"}, version=read.version, pool_id="first")
            with pytest.raises(VersionConflict):
                swap(connection, agents, {"id": "a"}, version=read.version, pool_id="second")
        changed = database.read(read_agent, "a")
        assert (changed.pool_id, changed.version) == ("first", read.version + 1)
    finally:
        database.dispose()


def test_a_duplicate_key_after_many_conflicts_is_still_a_lost_race(database_url: str) -> None:
    """The conflicts of a storm may have used up more attempts than a duplicate key has."""
    database = Database(database_url)
    attempts: list[str] = []

    def lose_often(connection: Connection) -> str:
        attempts.append("")
        if len(attempts) <= DUPLICATE_ATTEMPTS + 1:
            raise VersionConflict
        if len(attempts) == DUPLICATE_ATTEMPTS + 2:
            insert_agent(connection, "a", NOW)
        return read_agent(connection, "a").id

    try:
        database.create_tables()
        database.write(insert_agent, "a", NOW)
        assert database.write(lose_often) == "a"
    finally:
        database.dispose()


def test_a_key_that_stays_a_duplicate_is_an_error(database_url: str) -> None:
    database = Database(database_url)
    try:
        database.create_tables()
        database.write(insert_agent, "a", NOW)
        with pytest.raises(IntegrityError):
            database.write(insert_agent, "a", NOW)
    finally:
        database.dispose()


def test_a_writer_locks_the_series_after_a_version_conflict(
    mariadb: PrivateServer, mariadb_url: str
) -> None:
    sef = SmartEmergencyFallback(mariadb_url)
    report = {"spot_price": 0.05, "pool_id": "p", "timestamp": NOW.timestamp()}
    sef.process_incoming_data("a", "pricing", report)
    sent: list[str] = []

    def overtake(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO price_series") and statement not in sent:
            other = mariadb.connect(str(make_url(mariadb_url).database))
            with other.cursor() as its:
                its.execute("UPDATE price_series SET version = version + 1")
            other.commit()
            other.close()
        sent.append(statement)

    event.listen(sef._database.engine, "before_cursor_execute", overtake)
    later = {**report, "timestamp": NOW.timestamp() + 300}
    assert sef.process_incoming_data("a", "pricing", later)["status"] == "success"
    assert len(stored_points(mariadb_url, "a", "p")) == 2
    locks = ["FOR UPDATE" in statement for statement in sent if "price_series" in statement]
    assert locks == [False, False, True, False, False]
    sef.close()
