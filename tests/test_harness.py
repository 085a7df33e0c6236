"""Check the databases and the simulated EC2 that the fixtures provide."""

import mysql.connector
import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from tests.harness import POOL, TrackedSimulation, client_of
from tests.mariadb import MariaDB


@pytest.mark.parametrize("kind", ["bare_sqlite_url", "bare_mariadb_url"])
def test_a_database_is_empty_and_enforces_a_unique_key(
    request: pytest.FixtureRequest, kind: str
) -> None:
    engine = create_engine(request.getfixturevalue(kind))
    assert inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE things (name VARCHAR(20) NOT NULL UNIQUE)"))
        connection.execute(text("INSERT INTO things VALUES ('café ☕')"))
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text("INSERT INTO things VALUES ('café ☕')"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM things")).scalars().all() == ["café ☕"]
    engine.dispose()


def test_mariadb_is_a_real_server_and_the_driver_has_its_c_extension(mariadb_url: str) -> None:
    assert mysql.connector.HAVE_CEXT
    engine = create_engine(mariadb_url)
    with engine.connect() as connection:
        assert "MariaDB" in connection.execute(text("SELECT VERSION()")).scalar_one()
        collation = connection.execute(text("SELECT @@collation_connection")).scalar_one()
        assert collation == "utf8mb4_bin"
        assert connection.execute(text("SELECT @@innodb_flush_log_at_trx_commit")).scalar_one() == 2
    engine.dispose()


def test_committed_rows_survive_a_killed_server(mariadb: MariaDB, bare_mariadb_url: str) -> None:
    engine = create_engine(bare_mariadb_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE things (name VARCHAR(20) NOT NULL)"))
        connection.execute(text("INSERT INTO things VALUES ('kept')"))
    engine.dispose()
    mariadb.kill()
    try:
        with pytest.raises(mysql.connector.Error):
            mariadb.connect()
    finally:
        mariadb.start()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM things")).scalars().all() == ["kept"]
    engine.dispose()


def test_restore_undoes_all_changes_of_a_test(simulation: TrackedSimulation) -> None:
    simulation.set_options(pending_seconds=600)
    client_of(simulation.endpoint).run_instances(
        LaunchTemplate={"LaunchTemplateName": "sef-default"}, MinCount=1, MaxCount=1
    )
    simulation.set_pool(POOL, capacity=False)
    simulation.throttle()
    simulation.restore()
    assert simulation.instances() == []
    assert simulation.faults() == []
    assert {pool.room for pool in simulation.pools()} == {None}
    launched = client_of(simulation.endpoint).run_instances(
        LaunchTemplate={"LaunchTemplateName": "sef-default"}, MinCount=1, MaxCount=1
    )
    [instance] = simulation.instances()
    assert (instance.id, instance.state) == (launched["Instances"][0]["InstanceId"], "running")
