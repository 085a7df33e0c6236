"""What was committed on another node of a cluster is waited for; tests/cluster has the nodes."""

from sqlalchemy import text

from sef.store.database import Database


def test_a_session_is_as_it_was_after_it_has_waited(database_url: str) -> None:
    database = Database(database_url)
    try:
        database.catch_up()
        if database.is_mysql:
            with database.engine.connect() as connection:
                rows = connection.execute(text("SHOW SESSION VARIABLES LIKE '%_wait%'"))
                told = {row[0]: row[1] for row in rows}
            assert told.get("wsrep_sync_wait", "0") == "0"
            assert told["innodb_lock_wait_timeout"] == "3"
    finally:
        database.dispose()
