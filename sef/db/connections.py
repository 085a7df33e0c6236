"""A database that several hosts serve: the first of them that can be used is connected to.

The hosts are the nodes of one cluster, which agree before they acknowledge (Galera, or Group
Replication with failover consistency). Two servers of which one follows later are not.
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
"""Longer than a cluster stands still while it agrees that a node is gone (Galera: 5 s)."""
AVOIDED_SECONDS = 10
"""How long a host that could not be used comes last."""
NO_SUCH_TABLE = 1146


class NotUsable(mysql.connector.OperationalError):
    """The host answers, but writes nothing."""


class Hosts:
    """Connects to the first host that can be used, and remembers which could not."""

    def __init__(self, hosts: list[Host]) -> None:
        self._hosts = hosts
        self._avoided_until: dict[Host, float] = {}

    def connect(self, connect: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """A connection of `connect`, with `arguments` and the host and port added to them.

        Raises:
            mysql.connector.Error: no host can be used; why the one that is preferred cannot.
        """
        first_error = None
        for host in self._in_order():
            try:
                connection = connect(**arguments | {"host": host[0], "port": host[1]})
                _check(connection)
            except mysql.connector.Error as error:
                log.warning("SEF: database host %s:%s cannot be used: %s", *host, error)
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
    """Close a connection and raise unless its server reads and writes.

    A node that has lost its cluster takes connections and answers SELECT 1, but reads no table.
    """
    try:
        with closing(connection.cursor()) as cursor:
            cursor.execute("SELECT @@GLOBAL.read_only")
            if cursor.fetchall() not in ([(0,)], [("OFF",)]):
                raise NotUsable("it is read-only")
            try:
                cursor.execute("SELECT id FROM agents LIMIT 1")
                cursor.fetchall()
            except mysql.connector.Error as error:
                if error.errno != NO_SUCH_TABLE:  # which is about to be made
                    raise
        connection.rollback()
    except mysql.connector.Error:
        connection.close()
        raise


CHOOSE_A_CONNECTION = frozenset(
    {"use_pure", "failover", "dns_srv", "option_files", "read_default_file", "pool_name"}
    | {"pool_size", "pool_reset_session"}
)
"""Arguments of `mysql.connector.connect` that decide what kind of connection it returns."""

if mysql.connector.HAVE_CEXT:

    class TrustingConnection(mysql.connector.CMySQLConnection):
        """One that does not ping before every statement, as the driver's own does.

        The answer would be old by the time it arrives: a statement on a broken connection fails
        all the same, and is recognised by its error.
        """

        def is_connected(self) -> bool:
            """Whether it was not closed, by us or after an error. `ping` asks the server."""
            return not self.is_closed()


def connect_to(**arguments: Any) -> MySQLConnectionAbstract | PooledMySQLConnection:
    """Open a connection as `mysql.connector.connect` does.

    It is a TrustingConnection, unless the driver lacks its C extension or the arguments ask for
    another kind.
    """
    if mysql.connector.HAVE_CEXT and not CHOOSE_A_CONNECTION & arguments.keys():
        return TrustingConnection(**arguments)
    return mysql.connector.connect(**arguments)


def driver_is_slow() -> bool:
    """Whether the driver runs without its C extension, at half the speed."""
    return not mysql.connector.HAVE_CEXT
