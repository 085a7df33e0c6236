"""HTTP to configured addresses, without a way into the private networks that SEF runs in."""

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
"""Local-use NAT64 prefix of RFC 8215; its networks embed the IPv4 address in different places."""
RETRYABLE_4XX = frozenset({408, 425, 429})
"""Answers of the 400s that depend on the time, not on the request."""
SHARES = 3
"""Parts of the time limit: one to resolve the name, and one to connect to each address family."""


class PermanentHttpError(Exception):
    """The call cannot succeed: an invalid URL, an address that is not allowed, a 3xx or a 4xx."""


class TransientHttpError(Exception):
    """The call may succeed later: no answer in time, no connection, a 408, 425, 429 or 5xx."""


def is_allowed(address: str, networks: Sequence[Network] = ()) -> bool:
    """Return True if a socket may be opened to this IP address.

    Public unicast addresses are allowed. Private, loopback, link-local, shared, reserved and
    multicast addresses are not, nor IPv6 addresses that carry such an IPv4 address (mapped, 6to4,
    Teredo, NAT64). Every address in `networks` is allowed.
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
    """Resolves a name once, and connects only to the addresses that it has checked.

    So a name that resolves to another address a moment later (DNS rebinding) has no effect.
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
        """Return the answer of `getaddrinfo`, with at most one address of each family.

        Raises:
            PermanentHttpError: the name resolves only to addresses that are not allowed.
        """
        try:
            addresses: list[Any] = super().resolve(host, port)  # type: ignore[no-untyped-call]
        except socket.gaierror:
            if not self._refused:
                raise
            raise PermanentHttpError(
                f"{host} resolves to {self._refused}, a private, link-local or reserved address; "
                "SEF_ALLOWED_PRIVATE_NETWORKS can allow it"
            ) from None
        first_of_family: dict[Any, Any] = {}
        for address in addresses:
            first_of_family.setdefault(address[0], address)
        return list(first_of_family.values())


class Outbound:
    """POSTs to configured URLs.

    It ignores the proxies of the environment, since it could not check the address that a proxy
    calls. It follows no redirect and reads no body.
    """

    def __init__(self, allowed_networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(allowed_networks)

    def problem_of(self, url: str, *, timeout: float = 2.0) -> str | None:
        """Return the reason why a POST to a URL would be refused now; None if it may be sent.

        Nothing is sent. The reason names the host, never the rest of the URL.

        Args:
            timeout: maximum time to resolve the name, in seconds.
        """
        try:
            host = _host(url)
            CheckedPolicy(self._networks, timeout).resolve(host, urlsplit(url).port or 80)
        except PermanentHttpError as error:
            return str(error)
        except (OSError, UnicodeError):
            return f"{host} cannot be resolved now"
        return None

    def post_json(
        self,
        url: str,
        body: Mapping[str, Any],
        *,
        timeout: float = 10.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """POST `body` as JSON, and return if the answer is a 2xx.

        The errors name the host, never the rest of the URL, which is often a secret.

        Args:
            timeout: maximum time in seconds, for everything together.

        Raises:
            PermanentHttpError: a repetition would fail too.
            TransientHttpError: a repetition may succeed. It is unknown if the body arrived.
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
            # The text of the error may quote the URL or a header, so only its type is reported.
            raise PermanentHttpError(f"{host}: {type(error).__name__}") from None
        except (requests.RequestException, OSError) as error:
            is_late = tracker.expired or isinstance(error, requests.Timeout)
            reason = f"no answer within {timeout:g} s" if is_late else _cause(error)
            raise TransientHttpError(f"{host}: {reason}") from None
        except WatchdogUnavailableError:
            raise TransientHttpError(f"{host}: no thread could be started") from None
        if status >= 500 or status in RETRYABLE_4XX:
            raise TransientHttpError(f"{host} answered {status}")
        if status >= 400:
            raise PermanentHttpError(f"{host} answered {status}")
        if status >= 300:
            raise PermanentHttpError(
                f"{host} answered {status}, a redirect; SEF does not follow redirects"
            )


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https") or port == 0:
        raise PermanentHttpError("expected an http:// or https:// URL")
    return host


def _cause(error: BaseException) -> str:
    """Return the text of the innermost cause; the outer errors quote the whole URL."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "no connection"
