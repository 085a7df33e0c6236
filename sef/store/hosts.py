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

from sef.config import Host

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
