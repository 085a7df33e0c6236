"""A database URL that lists several hosts: the first that can be used is connected to."""

import signal
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from sef import config
from sef.db.database import Database
from sef.db.url import hosts_of
from sef.errors import ConfigurationError, Unavailable
from tests.db.rows import transaction
from tests.private_server import PrivateServer, free_port

NAME = "several"
URL = "mysql+mysqlconnector://root@/several?charset=utf8mb4&collation=utf8mb4_bin"


@pytest.fixture(scope="module")
def servers(mariadb: PrivateServer) -> Iterator[list[PrivateServer]]:
    """Two servers with SEF's tables. They share nothing: which one answers can be told."""
    second = type(mariadb)()
    try:
        second.start()
        for server in (mariadb, second):
            server.execute(f"CREATE DATABASE {NAME} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
            database = Database(server.url(NAME))
            database.create_tables()
            database.dispose()
        yield [mariadb, second]
        mariadb.drop(NAME)
    finally:
        second.remove()


Connect = Callable[..., Database]


@pytest.fixture
def connect(servers: list[PrivateServer]) -> Iterator[Connect]:
    made = []

    def connect(*ports: int) -> Database:
        listed = "".join(f"&host=127.0.0.1:{port}" for port in ports)
        # A frozen host is given up after so long, and one on a busy machine must not be.
        made.append(Database(f"{URL}&read_timeout=6&connection_timeout=6{listed}"))
        return made[-1]

    yield connect
    for database in made:
        database.dispose()


def port_of(database: Database) -> int:
    return int(database.write(lambda c: c.scalar(text("SELECT @@port"))))


def test_the_first_host_that_is_there_is_used(
    servers: list[PrivateServer], connect: Connect
) -> None:
    one, two = (server.port for server in servers)
    nobody = free_port()
    assert port_of(connect(one, two)) == one
    assert port_of(connect(two, one)) == two
    assert port_of(connect(nobody, two, one)) == two


def test_with_no_host_there_the_database_is_unavailable(connect: Connect) -> None:
    database = connect(free_port(), free_port())
    with pytest.raises(Unavailable):
        port_of(database)


@pytest.mark.parametrize("lost", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_when_a_host_is_lost_the_call_is_answered_by_another(
    servers: list[PrivateServer], connect: Connect, lost: signal.Signals
) -> None:
    one, two = servers
    database = connect(two.port, one.port)
    assert port_of(database) == two.port
    if lost is signal.SIGKILL:
        two.kill()
    else:
        two.signal(lost)
    try:
        assert port_of(database) == one.port
        assert database.read(lambda c: c.scalar(text("SELECT @@port"))) == one.port
    finally:
        if lost is signal.SIGKILL:
            two.start()
        else:
            two.signal(signal.SIGCONT)


def test_a_host_that_becomes_read_only_is_left(
    servers: list[PrivateServer], connect: Connect
) -> None:
    one, two = servers
    # A user whom read-only binds, as it does not bind root.
    for server in servers:
        server.execute("CREATE USER IF NOT EXISTS bound@'127.0.0.1'")
        server.execute(f"GRANT ALL ON {NAME}.* TO bound@'127.0.0.1'")
    listed = f"&host=127.0.0.1:{two.port}&host=127.0.0.1:{one.port}"
    database = Database(URL.replace("root@", "bound@") + listed)
    try:
        change = text("UPDATE agents SET version = version + 1")
        database.write(lambda c: c.execute(change))
        two.execute("SET GLOBAL read_only = 1")
        database.write(lambda c: c.execute(change))
        assert port_of(database) == one.port
    finally:
        two.execute("SET GLOBAL read_only = 0")
        database.dispose()


def test_tables_are_made_where_there_are_none(
    servers: list[PrivateServer], bare_mariadb_url: str
) -> None:
    url = make_url(bare_mariadb_url)
    listed = url.set(host=None, port=None).update_query_dict({"host": f"127.0.0.1:{url.port}"})
    database = Database(listed)
    try:
        assert "agents" in database.create_tables()
    finally:
        database.dispose()
    with transaction(bare_mariadb_url) as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM agents")) == 0


@pytest.mark.parametrize(
    ("listed", "hosts"),
    [
        pytest.param("", [], id="none"),
        pytest.param("?host=a", [("a", 3306)], id="one, at the usual port"),
        pytest.param("?host=a:1&host=b:2", [("a", 1), ("b", 2)], id="two"),
        pytest.param("?host=[::1]:7&host=[::2]", [("::1", 7), ("::2", 3306)], id="IPv6"),
    ],
)
def test_hosts_are_read(listed: str, hosts: list[tuple[str, int]]) -> None:
    assert hosts_of(make_url(f"mysql+mysqlconnector://me@/sef{listed}")) == hosts


@pytest.mark.parametrize(
    ("url", "told"),
    [
        pytest.param("mysql+mysqlconnector://me@a:1,b:2/sef", "host=a:3306&host=b", id="commas"),
        pytest.param("mysql+mysqlconnector://me@/sef?host=a:no", "'a:no' is no host", id="a port"),
        pytest.param("mysql+mysqlconnector://me@/sef?host=:1", "':1' is no host", id="no name"),
        pytest.param("mysql+mysqlconnector://me@a/sef?host=b", "not both", id="both forms"),
    ],
)
def test_hosts_that_cannot_be_read_stop_the_start(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        config.load(database_url=url)
    assert told in str(raised.value)


def test_the_password_is_not_told_with_the_hosts() -> None:
    settings = config.load(database_url="mysql+mysqlconnector://me:secret@/sef?host=a:1&host=b:2")
    assert "secret" not in settings.shown_database
