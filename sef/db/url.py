"""Check database URLs, and read the hosts that a URL lists."""

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

MYSQL_PORT = 3306

Host = tuple[str, int]
"""A host name or address, and a port."""


def check_database_url(url: str) -> None:
    """Raise ValueError, with a message of one sentence, if SEF cannot use the database."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        raise ValueError(
            "not a database URL; expected, for example, "
            "mysql+mysqlconnector://user:password@host/sef, or for several hosts "
            "mysql+mysqlconnector://user:password@/sef?host=a:3306&host=b"
        ) from None
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "mysql+mysqlconnector"):
        raise ValueError(
            f"{parsed.drivername} is not supported; use mysql+mysqlconnector:// or sqlite:///"
        )
    if hosts_of(parsed) and parsed.host:
        raise ValueError("list the hosts either before the / or as ?host=, not both")


def hosts_of(url: URL) -> list[Host]:
    """Return the hosts that a URL lists as `?host=a:3306&host=b`; empty if it lists none.

    Raises:
        ValueError: a host is invalid; the message names it.
    """
    listed = url.query.get("host", ())
    return [_parsed_host(text) for text in ([listed] if isinstance(listed, str) else listed)]


def _parsed_host(text: str) -> Host:
    name, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        name, port = text, str(MYSQL_PORT)
    name = name.removeprefix("[").removesuffix("]")
    if not name or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"invalid host {text!r}; expected, for example, db-1.example:3306")
    return name, int(port)
