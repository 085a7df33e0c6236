"""Wait for commits of another node of a cluster; the tests with real nodes are in tests/cluster."""

import pytest
from sqlalchemy import text

from sef.agents import read_agent
from sef.db.database import Database
from sef.errors import AgentNotFound


def test_a_session_has_its_former_settings_after_the_wait(database_url: str) -> None:
    database = Database(database_url)
    database.create_tables()
    try:
        with pytest.raises(AgentNotFound):
            database.read(read_agent, "nobody")
        if database.is_mysql:
            with database.engine.connect() as connection:
                rows = connection.execute(text("SHOW SESSION VARIABLES LIKE '%_wait%'"))
                variables = {row[0]: row[1] for row in rows}
            assert variables.get("wsrep_sync_wait", "0") == "0"
            assert variables["innodb_lock_wait_timeout"] == "3"
    finally:
        database.dispose()
