"""What was committed on another node of a cluster is waited for; tests/cluster has the nodes."""

import pytest
from sqlalchemy import text

from sef.agents import read_agent
from sef.db.database import Database
from sef.errors import AgentNotFound


def test_a_session_is_as_it_was_after_it_has_waited(database_url: str) -> None:
    database = Database(database_url)
    database.create_tables()
    try:
        with pytest.raises(AgentNotFound):
            database.read(read_agent, "nobody")
        if database.is_mysql:
            with database.engine.connect() as connection:
                rows = connection.execute(text("SHOW SESSION VARIABLES LIKE '%_wait%'"))
                told = {row[0]: row[1] for row in rows}
            assert told.get("wsrep_sync_wait", "0") == "0"
            assert told["innodb_lock_wait_timeout"] == "3"
    finally:
        database.dispose()
