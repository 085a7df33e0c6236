"""The driver's connections, without a question to the server before every statement."""

from typing import Any

import mysql.connector
from mysql.connector.abstracts import MySQLConnectionAbstract
from mysql.connector.pooling import PooledMySQLConnection

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


def connect(**arguments: Any) -> MySQLConnectionAbstract | PooledMySQLConnection:
    """A connection as `mysql.connector.connect` opens it: a trusting one, unless the driver lacks
    its C extension or the arguments ask for another kind."""
    if mysql.connector.HAVE_CEXT and not CHOOSE_A_CONNECTION & arguments.keys():
        return TrustingConnection(**arguments)
    return mysql.connector.connect(**arguments)


def driver_is_slow() -> bool:
    """Whether the driver runs without its C extension, at half the speed."""
    return not mysql.connector.HAVE_CEXT
