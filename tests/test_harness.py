"""The databases that the fixtures give are what they say."""

from urllib.parse import urlsplit

import mysql.connector
import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from tests.mariadb import DidNotStart, MariaDB


def test_a_database_is_empty_and_enforces_a_unique_key(database_url: str) -> None:
    engine = create_engine(database_url)
    assert inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE things (name VARCHAR(20) NOT NULL UNIQUE)"))
        connection.execute(text("INSERT INTO things VALUES ('café ☕')"))
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text("INSERT INTO things VALUES ('café ☕')"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM things")).scalars().all() == ["café ☕"]
    engine.dispose()


def test_mariadb_is_a_real_server_and_the_driver_is_the_fast_one(mariadb_url: str) -> None:
    assert mysql.connector.HAVE_CEXT
    engine = create_engine(mariadb_url)
    with engine.connect() as connection:
        version = connection.execute(text("SELECT VERSION()")).scalar_one()
        collation = connection.execute(text("SELECT @@collation_connection")).scalar_one()
        assert connection.execute(text("SELECT @@innodb_flush_log_at_trx_commit")).scalar_one() == 2
    assert "MariaDB" in version
    assert collation == "utf8mb4_bin"
    engine.dispose()


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_committed_rows_outlive_the_server(mariadb: MariaDB, mariadb_url: str, end: str) -> None:
    engine = create_engine(mariadb_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE things (name VARCHAR(20) NOT NULL)"))
        connection.execute(text("INSERT INTO things VALUES ('kept')"))
    engine.dispose()

    if end == "kill":
        mariadb.kill()
        assert not mariadb.is_running
        with pytest.raises(mysql.connector.Error):
            mariadb.connect()
        mariadb.start()
    else:
        mariadb.restart()

    assert urlsplit(mariadb_url).port == mariadb.port
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM things")).scalars().all() == ["kept"]
    engine.dispose()


def test_a_database_is_dropped_from_under_an_open_transaction(mariadb: MariaDB) -> None:
    mariadb.start()
    mariadb.create_database("held")
    connection = mariadb.connect("held")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE things (name VARCHAR(20))")
        cursor.execute("START TRANSACTION")
        cursor.execute("INSERT INTO things VALUES ('uncommitted')")
    mariadb.drop_database("held")


@pytest.mark.usefixtures("mariadb")
def test_a_server_that_does_not_start_says_why(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = MariaDB(tmp_path_factory.mktemp("broken"), options=("--no-such-option",))
    with pytest.raises(DidNotStart, match="unknown option '--no-such-option'"):
        server.start()
