from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

MYSQL_PORT = 3306
Host = tuple[str, int]


def check_database_url(url: str) -> None:
    """Raise ValueError with one sentence unless SEF can use such a database."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter for a port that is none
        raise ValueError(
            "not a database URL; one looks like mysql+mysqlconnector://user:password@host/sef, "
            "with several hosts like mysql+mysqlconnector://user:password@/sef?host=a:3306&host=b"
        ) from None
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "mysql+mysqlconnector"):
        raise ValueError(
            f"{parsed.drivername} is not supported; use mysql+mysqlconnector:// or sqlite:///"
        )
    if hosts_of(parsed) and parsed.host:
        raise ValueError("the hosts are listed either before the / or as ?host=, not both")


def hosts_of(url: URL) -> list[Host]:
    """The hosts that a URL lists as `?host=a:3306&host=b`; empty where it lists none.

    Raises:
        ValueError: one of them cannot be read; the message says which.
    """
    listed = url.query.get("host", ())
    return [_parsed_host(text) for text in ([listed] if isinstance(listed, str) else listed)]


def _parsed_host(text: str) -> Host:
    name, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        name, port = text, str(MYSQL_PORT)
    name = name.removeprefix("[").removesuffix("]")
    if not name or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no host; one looks like db-1.example:3306")
    return name, int(port)
