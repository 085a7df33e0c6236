"""HTTP to addresses that people configure: none of them leads into the networks SEF runs in."""

import ipaddress
import json
import socket
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any
from urllib.parse import urlsplit

import requests
from apprise.utils.http import (
    ConnectionTracker,
    HTTPPolicy,
    HTTPPolicySession,
    WatchdogUnavailableError,
    is_public_ip_address,
    track_connections,
)

from sef import failpoints

Network = IPv4Network | IPv6Network

LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
"""RFC 8215: where in such an address the IPv4 address is, depends on the network."""
RETRYABLE_4XX = frozenset({408, 425, 429})
"""Answers of the 400s that are about the moment, not about the request."""
SHARES = 3
"""Of the time: one for the name, and one for each family of addresses to connect to."""


class PermanentHttpError(Exception):
    """It cannot succeed as it is: a bad URL, an address that SEF does not call, a 3xx or 4xx."""


class TransientHttpError(Exception):
    """It may succeed later: no answer in time, no connection, a 429 or 5xx."""


def is_allowed(address: str, networks: Sequence[Network] = ()) -> bool:
    """Whether a socket may be opened to this IP address.

    Public unicast addresses are; private, loopback, link-local, shared, reserved and multicast
    ones are not, nor an IPv6 address that carries such an IPv4 address (mapped, 6to4, Teredo,
    NAT64). What lies in `networks` is allowed whatever it is.
    """
    try:
        parsed: IPv4Address | IPv6Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    parsed = mapped or parsed
    if any(parsed in network for network in networks):
        return True
    return parsed not in LOCAL_NAT64 and bool(is_public_ip_address(str(parsed)))


class CheckedPolicy(HTTPPolicy):
    """Resolves a name once and lets the connection go to the checked addresses only.

    So a name that means another address a moment later (DNS rebinding) gains nothing.
    """

    def __init__(self, networks: Sequence[Network], seconds: float) -> None:
        super().__init__(address_filter=self._allows, resolve_timeout=seconds)  # type: ignore[no-untyped-call]
        self._networks = networks
        self._refused = ""

    def _allows(self, address: str) -> bool:
        allowed = is_allowed(address, self._networks)
        if not allowed:
            self._refused = address
        return allowed

    def resolve(self, host: str, port: int) -> list[Any]:
        """What `getaddrinfo` answers, at most one address of each family.

        Raises:
            OutboundRefused: the name means addresses that SEF does not call, and no other.
        """
        try:
            found: list[Any] = super().resolve(host, port)  # type: ignore[no-untyped-call]
        except socket.gaierror:
            if not self._refused:
                raise
            raise PermanentHttpError(
                f"{host} is at {self._refused}, which SEF does not call: private, link-local or "
                "reserved; SEF_ALLOWED_PRIVATE_NETWORKS can allow it"
            ) from None
        first: dict[Any, Any] = {}
        for answer in found:
            first.setdefault(answer[0], answer)
        return list(first.values())


class Outbound:
    """POSTs to URLs that people configured.

    It uses no proxy, also none of the environment's: behind a proxy the address that is called
    could not be checked. It follows no redirect and reads no body.
    """

    def __init__(self, allowed_networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(allowed_networks)

    def post_json(
        self,
        url: str,
        body: Mapping[str, Any],
        *,
        timeout: float = 10.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """POST `body` and return once a 2xx has come, after `timeout` seconds in all at most.

        The messages of its errors name the host, never the rest of the URL, which is often a
        secret.

        Raises:
            OutboundRefused: repeating it as it is would be in vain.
            OutboundFailed: it may succeed later. Whether it arrived is unknown.
        """
        host = _host(url)
        share = timeout / SHARES
        deadline = time.monotonic() + timeout
        tracker = ConnectionTracker()
        try:
            with (
                failpoints.failpoint("Webhook"),
                HTTPPolicySession(CheckedPolicy(self._networks, share)) as session,
                track_connections(tracker, deadline),
                session.post(
                    url,
                    data=json.dumps(body).encode(),
                    headers={"Content-Type": "application/json", **(headers or {})},
                    timeout=(share, timeout),
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                status = response.status_code
        except (ValueError, UnicodeError) as error:
            # What requests says of URLs and headers that it cannot send; it may quote them.
            raise PermanentHttpError(f"{host}: {type(error).__name__}") from None
        except (requests.RequestException, OSError) as error:
            late = tracker.expired or isinstance(error, requests.Timeout)
            told = f"no answer within {timeout:g} s" if late else _why(error)
            raise TransientHttpError(f"{host}: {told}") from None
        except WatchdogUnavailableError:
            raise TransientHttpError(f"{host}: no thread could be started") from None
        if status >= 500 or status in RETRYABLE_4XX:
            raise TransientHttpError(f"{host} answered {status}")
        if status >= 400:
            raise PermanentHttpError(f"{host} answered {status}")
        if status >= 300:
            raise PermanentHttpError(f"{host} answered {status}, a redirect; SEF follows none")


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https") or port == 0:
        raise PermanentHttpError("not an http:// or https:// URL")
    return host


def _why(error: BaseException) -> str:
    """The innermost cause in its own words: the outer ones quote the whole URL."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "no connection"
