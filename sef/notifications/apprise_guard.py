"""Guards around Apprise while SEF sends: its sockets are checked, and its log is captured.

Both apply only to the thread that is sending a message of SEF. All other users of urllib3 and
Apprise in the process, such as boto3, are served as before.
"""

import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import urllib3.util.connection

from sef.notifications.outbound import CheckedPolicy, Network

CONNECT_SECONDS = 5.0
"""Time limit to connect to a channel."""

_allowed_networks: ContextVar[Sequence[Network] | None] = ContextVar("sef_networks", default=None)
_captured_log: ContextVar[list[str] | None] = ContextVar("sef_apprise_log", default=None)
_create_connection = urllib3.util.connection.create_connection


@contextmanager
def checked_sockets(networks: Sequence[Network]) -> Iterator[None]:
    """Let this thread open sockets to public addresses and `networks` only."""
    token = _allowed_networks.set(networks)
    try:
        yield
    finally:
        _allowed_networks.reset(token)


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """Yield a list that receives the warnings of Apprise in this thread, instead of the log.

    The warnings give the reasons of a failure, and may contain secrets.
    """
    messages: list[str] = []
    token = _captured_log.set(messages)
    try:
        yield messages
    finally:
        _captured_log.reset(token)


def _create_checked_connection(address: tuple[str, int], *rest: Any, **more: Any) -> socket.socket:
    networks = _allowed_networks.get()
    if networks is None:
        return _create_connection(address, *rest, **more)
    host, port = address
    policy = CheckedPolicy(networks, CONNECT_SECONDS)
    connection: socket.socket = policy.create_connection(  # type: ignore[no-untyped-call]
        host.strip("[]"), port, *rest, **more
    )
    return connection


def _capture(record: logging.LogRecord) -> bool:
    messages = _captured_log.get()
    if messages is None:
        return True
    if record.levelno >= logging.WARNING:
        messages.append(record.getMessage())
    return False


# Apprise's plugins call requests.post, which takes no adapter, so the check has to be in the one
# function that opens urllib3's sockets.
urllib3.util.connection.create_connection = _create_checked_connection
logging.getLogger("apprise").addFilter(_capture)
