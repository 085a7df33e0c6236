"""Connect to the first usable host of a database URL that lists several."""

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
    """Yield two servers with SEF's tables. They share no data, so a test can tell them apart."""
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
    databases = []

    def connect(*ports: int) -> Database:
        listed = "".join(f"&host=127.0.0.1:{port}" for port in ports)
        # Short enough to notice a frozen host, and long enough for a host on a busy machine.
        databases.append(Database(f"{URL}&read_timeout=6&connection_timeout=6{listed}"))
        return databases[-1]

    yield connect
    for database in databases:
        database.dispose()


def port_of(database: Database) -> int:
    return int(database.write(lambda c: c.scalar(text("SELECT @@port"))))


def test_the_first_running_host_is_used(servers: list[PrivateServer], connect: Connect) -> None:
    one, two = (server.port for server in servers)
    unused = free_port()
    assert port_of(connect(one, two)) == one
    assert port_of(connect(two, one)) == two
    assert port_of(connect(unused, two, one)) == two


def test_the_database_is_unavailable_if_no_host_runs(connect: Connect) -> None:
    database = connect(free_port(), free_port())
    with pytest.raises(Unavailable):
        port_of(database)


@pytest.mark.parametrize("lost", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_another_host_answers_when_a_host_is_lost(
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


def test_another_host_is_used_when_a_host_becomes_read_only(
    servers: list[PrivateServer], connect: Connect
) -> None:
    one, two = servers
    # Read-only mode does not apply to root, so the test uses another user.
    for server in servers:
        server.execute("CREATE USER IF NOT EXISTS writer@'127.0.0.1'")
        server.execute(f"GRANT ALL ON {NAME}.* TO writer@'127.0.0.1'")
    listed = f"&host=127.0.0.1:{two.port}&host=127.0.0.1:{one.port}"
    database = Database(URL.replace("root@", "writer@") + listed)
    try:
        change = text("UPDATE agents SET version = version + 1")
        database.write(lambda c: c.execute(change))
        two.execute("SET GLOBAL read_only = 1")
        database.write(lambda c: c.execute(change))
        assert port_of(database) == one.port
    finally:
        two.execute("SET GLOBAL read_only = 0")
        database.dispose()


def test_tables_are_created_through_a_list_of_hosts(
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
        pytest.param("?host=a", [("a", 3306)], id="one, at the default port"),
        pytest.param("?host=a:1&host=b:2", [("a", 1), ("b", 2)], id="two"),
        pytest.param("?host=[::1]:7&host=[::2]", [("::1", 7), ("::2", 3306)], id="IPv6"),
    ],
)
def test_hosts_are_parsed(listed: str, hosts: list[tuple[str, int]]) -> None:
    assert hosts_of(make_url(f"mysql+mysqlconnector://me@/sef{listed}")) == hosts


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("mysql+mysqlconnector://me@a:1,b:2/sef", "host=a:3306&host=b", id="commas"),
        pytest.param(
            "mysql+mysqlconnector://me@/sef?host=a:no", "invalid host 'a:no'", id="a port"
        ),
        pytest.param("mysql+mysqlconnector://me@/sef?host=:1", "invalid host ':1'", id="no name"),
        pytest.param("mysql+mysqlconnector://me@a/sef?host=b", "not both", id="both forms"),
    ],
)
def test_invalid_hosts_stop_the_start(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        config.load(database_url=url)
    assert message in str(raised.value)


def test_the_password_is_not_shown_with_the_hosts() -> None:
    settings = config.load(database_url="mysql+mysqlconnector://me:secret@/sef?host=a:1&host=b:2")
    assert "secret" not in settings.shown_database
