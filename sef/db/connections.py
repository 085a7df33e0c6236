"""Open connections of the driver, also to the first usable host of a cluster.

The hosts of one URL must be nodes of a cluster that agree before they acknowledge a COMMIT: Galera,
or Group Replication with failover consistency. A primary with an asynchronous replica does not
qualify.
"""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import mysql.connector
from mysql.connector.abstracts import MySQLConnectionAbstract
from mysql.connector.pooling import PooledMySQLConnection

from sef.db.url import Host

log = logging.getLogger("sef")

CONNECT_SECONDS = 2
READ_SECONDS = 8
"""Longer than the pause of a cluster that removes a lost node (Galera: 5 s)."""
AVOIDED_SECONDS = 10
"""Seconds for which a host that could not be used is tried last."""
NO_SUCH_TABLE = 1146
"""MySQL's error number for a missing table."""

CONNECTION_KIND_ARGUMENTS = frozenset(
    {"use_pure", "failover", "dns_srv", "option_files", "read_default_file", "pool_name"}
    | {"pool_size", "pool_reset_session"}
)
"""Arguments of `mysql.connector.connect` that decide the kind of the connection."""


class NotUsable(mysql.connector.OperationalError):
    """The host answers, but does not accept writes."""


class Hosts:
    """Connect to the first usable host, and try hosts that failed lately last."""

    def __init__(self, hosts: list[Host]) -> None:
        self._hosts = hosts
        self._avoided_until: dict[Host, float] = {}

    def connect(self, connect: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Call `connect` with `arguments` and the host and port; return the connection.

        Raises:
            mysql.connector.Error: no host can be used; the error is that of the first host tried.
        """
        first_error = None
        for host in self._in_order():
            try:
                connection = connect(**arguments | {"host": host[0], "port": host[1]})
                _check(connection)
            except mysql.connector.Error as error:
                log.warning("SEF: cannot use database host %s:%s: %s", *host, error)
                self._avoided_until[host] = time.monotonic() + AVOIDED_SECONDS
                first_error = first_error or error
            else:
                return connection
        assert first_error is not None
        raise first_error

    def _in_order(self) -> list[Host]:
        now = time.monotonic()
        return sorted(self._hosts, key=lambda host: self._avoided_until.get(host, 0) > now)


def _check(connection: Any) -> None:
    """Close the connection and raise an error if its server cannot read or write.

    A node that has lost its cluster accepts connections and answers SELECT 1, but cannot read a
    table.
    """
    try:
        with closing(connection.cursor()) as cursor:
            cursor.execute("SELECT @@GLOBAL.read_only")
            if cursor.fetchall() not in ([(0,)], [("OFF",)]):
                raise NotUsable("the server is read-only")
            try:
                cursor.execute("SELECT id FROM agents LIMIT 1")
                cursor.fetchall()
            except mysql.connector.Error as error:
                if error.errno != NO_SUCH_TABLE:  # SEF creates it at its start
                    raise
        connection.rollback()
    except mysql.connector.Error:
        connection.close()
        raise


if mysql.connector.HAVE_CEXT:

    class NoPingConnection(mysql.connector.CMySQLConnection):
        """A connection that does not ping the server before every statement.

        The driver's own class pings. That proves nothing: the connection can break between the
        ping and the statement. A statement on a broken connection fails, and SEF recognizes the
        error.
        """

        def is_connected(self) -> bool:
            """Return False after the connection was closed. `ping` still asks the server."""
            return not self.is_closed()


def connect_to(**arguments: Any) -> MySQLConnectionAbstract | PooledMySQLConnection:
    """Open a connection as `mysql.connector.connect` does.

    The result is a NoPingConnection, unless the driver lacks its C extension or the arguments ask
    for another kind.
    """
    if mysql.connector.HAVE_CEXT and not CONNECTION_KIND_ARGUMENTS & arguments.keys():
        return NoPingConnection(**arguments)
    return mysql.connector.connect(**arguments)


def driver_is_slow() -> bool:
    """Return True if the driver runs without its C extension, at half the speed."""
    return not mysql.connector.HAVE_CEXT
