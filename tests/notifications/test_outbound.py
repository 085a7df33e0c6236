"""Calls to configured URLs: allowed addresses, answers, time limits and secrets."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network
from typing import Any

import pytest

from sef.notifications.outbound import Outbound, PermanentHttpError, TransientHttpError, is_allowed
from tests.private_server import free_port
from tests.webhook_receiver import Receiver

LOOPBACK = ip_network("127.0.0.0/8")
SECRET = "T00000000/B00000000/secret"


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "172.15.255.255",
        "172.32.0.0",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_allowed(address)


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("169.254.169.254", id="the metadata service"),
        pytest.param("fd00:ec2::254", id="the metadata service, IPv6"),
        pytest.param("169.254.170.2", id="credentials of a container"),
        pytest.param("127.0.0.1", id="loopback"),
        pytest.param("127.255.255.254", id="the end of loopback"),
        pytest.param("::1", id="loopback, IPv6"),
        pytest.param("0.0.0.0", id="unspecified"),
        pytest.param("::", id="unspecified, IPv6"),
        pytest.param("10.0.0.1", id="private, 10"),
        pytest.param("172.16.0.1", id="private, 172.16"),
        pytest.param("172.31.255.255", id="the end of 172.16"),
        pytest.param("192.168.1.1", id="private, 192.168"),
        pytest.param("100.64.0.1", id="shared by carriers"),
        pytest.param("fc00::1", id="unique local"),
        pytest.param("fe80::1", id="link-local, IPv6"),
        pytest.param("fe80::1%eth0", id="link-local with a zone"),
        pytest.param("fec0::1", id="site-local"),
        pytest.param("224.0.0.1", id="multicast"),
        pytest.param("ff02::1", id="multicast, IPv6"),
        pytest.param("240.0.0.1", id="reserved"),
        pytest.param("255.255.255.255", id="broadcast"),
        pytest.param("192.0.2.1", id="documentation"),
        pytest.param("198.18.0.1", id="benchmarks"),
        pytest.param("::ffff:127.0.0.1", id="mapped loopback"),
        pytest.param("::ffff:169.254.169.254", id="mapped metadata service"),
        pytest.param("::127.0.0.1", id="compatible loopback"),
        pytest.param("64:ff9b::a9fe:a9fe", id="NAT64 of the metadata service"),
        pytest.param("64:ff9b:1::808:808", id="local NAT64"),
        pytest.param("2002:a9fe:a9fe::1", id="6to4 of the metadata service"),
        pytest.param("2001:0:a9fe:a9fe::1", id="Teredo of the metadata service"),
        pytest.param("localhost", id="a name"),
        pytest.param("", id="empty"),
    ],
)
def test_an_address_that_is_not_public_is_not_allowed(address: str) -> None:
    assert not is_allowed(address)


@pytest.mark.parametrize(
    ("address", "network", "allowed"),
    [
        ("10.1.2.3", "10.1.0.0/16", True),
        ("10.2.2.3", "10.1.0.0/16", False),
        ("::ffff:10.1.2.3", "10.1.0.0/16", True),
        ("fd12::1", "fd12::/16", True),
        ("10.1.2.3", "fd12::/16", False),
        ("8.8.8.8", "10.1.0.0/16", True),
        ("64:ff9b:1::1", "64:ff9b:1::/48", True),
    ],
)
def test_a_network_of_the_setting_is_allowed(address: str, network: str, allowed: bool) -> None:
    assert is_allowed(address, [ip_network(network)]) is allowed


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver(SECRET)
    yield receiver
    receiver.stop()


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Resolve every name to the next of these addresses, and at last always to the last one."""
    names: list[str] = []
    real = socket.getaddrinfo

    def answer(host: str, *rest: Any, **named: Any) -> Any:
        names.append(host)
        return real(answers[min(len(names), len(answers)) - 1], *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return names


def test_a_body_and_its_headers_are_posted(receiver: Receiver) -> None:
    Outbound([LOOPBACK]).post_json(receiver.url, {"a": "ü"}, headers={"X-Sef": "1"})
    ((path, headers, body),) = receiver.got
    assert (path, headers["X-Sef"], headers["Content-Type"], body) == (
        f"/{SECRET}",
        "1",
        "application/json",
        {"a": "ü"},
    )


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"]
)
def test_a_private_address_is_rejected_before_a_socket_opens(receiver: Receiver, host: str) -> None:
    with pytest.raises(PermanentHttpError, match="SEF_ALLOWED_PRIVATE_NETWORKS can allow it"):
        Outbound().post_json(f"http://{host}:{receiver.port}/", {})
    assert receiver.got == []


def test_a_name_that_resolves_to_a_private_address_is_rejected(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, "127.0.0.1")
    with pytest.raises(
        PermanentHttpError, match=r"^hooks\.example resolves to 127\.0\.0\.1, a private"
    ):
        Outbound().post_json(f"http://hooks.example:{receiver.port}/", {})
    assert receiver.got == []


def test_only_the_address_that_was_checked_is_called(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = resolving(monkeypatch, "127.0.0.1", "127.0.0.2")
    Outbound([ip_network("127.0.0.1/32")]).post_json(f"http://hooks.example:{receiver.port}/", {})
    assert (len(receiver.got), names) == (1, ["hooks.example"])
    with pytest.raises(PermanentHttpError):
        Outbound([ip_network("127.0.0.1/32")]).post_json(
            f"http://hooks.example:{receiver.port}/", {}
        )
    assert len(receiver.got) == 1


def test_no_redirect_is_followed(receiver: Receiver) -> None:
    receiver.status, receiver.location = 307, f"http://127.0.0.1:{receiver.port}/elsewhere"
    with pytest.raises(PermanentHttpError, match=r"^127\.0\.0\.1 answered 307, a redirect"):
        Outbound([LOOPBACK]).post_json(receiver.url, {})
    assert len(receiver.got) == 1


def test_no_proxy_of_the_environment_is_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{receiver.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    resolving(monkeypatch, "10.0.0.1")
    with pytest.raises(PermanentHttpError):
        Outbound([LOOPBACK]).post_json("http://hooks.example/", {})
    assert receiver.got == []


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_success_is_any_2xx(receiver: Receiver, status: int) -> None:
    receiver.status = status
    Outbound([LOOPBACK]).post_json(receiver.url, {})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, PermanentHttpError),
        (304, PermanentHttpError),
        (400, PermanentHttpError),
        (401, PermanentHttpError),
        (404, PermanentHttpError),
        (410, PermanentHttpError),
        (408, TransientHttpError),
        (425, TransientHttpError),
        (429, TransientHttpError),
        (500, TransientHttpError),
        (503, TransientHttpError),
    ],
)
def test_the_status_of_the_answer_decides_if_a_retry_may_succeed(
    receiver: Receiver, status: int, kind: type[Exception]
) -> None:
    receiver.status = status
    with pytest.raises(kind, match=rf"^127\.0\.0\.1 answered {status}"):
        Outbound([LOOPBACK]).post_json(receiver.url, {})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://hooks.example:0/",
        "http://hooks.example:99999/",
        "http://[::1/",
        "http://*.example/",
    ],
)
def test_an_invalid_url_is_rejected(url: str) -> None:
    with pytest.raises(PermanentHttpError):
        Outbound().post_json(url, {})


@pytest.mark.parametrize(
    "headers", [{"X-Sef": "a\r\nb: c"}, {"": "a"}], ids=["two lines", "no name"]
)
def test_an_invalid_header_is_rejected(receiver: Receiver, headers: dict[str, str]) -> None:
    with pytest.raises(PermanentHttpError):
        Outbound([LOOPBACK]).post_json(receiver.url, {}, headers=headers)
    assert receiver.got == []


def test_a_refused_connection_may_be_retried_and_the_url_stays_secret() -> None:
    with pytest.raises(TransientHttpError) as caught:
        Outbound([LOOPBACK]).post_json(f"http://user:pw@127.0.0.1:{free_port()}/{SECRET}", {})
    assert str(caught.value) == "127.0.0.1: Connection refused"


def test_a_name_that_cannot_be_resolved_may_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any, **named: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(TransientHttpError, match=r"^hooks\.example: "):
        Outbound().post_json(f"https://hooks.example/{SECRET}", {})


def test_a_receiver_that_never_answers_times_out(receiver: Receiver) -> None:
    done = threading.Event()
    receiver.answers = lambda _: done.wait() and None
    with pytest.raises(TransientHttpError, match=r"no answer within 0\.3 s"):
        Outbound([LOOPBACK]).post_json(receiver.url, {}, timeout=0.3)
    done.set()


def test_a_receiver_that_trickles_its_headers_times_out(receiver: Receiver) -> None:
    """Each byte arrives within the time-out of a socket, but the answer never ends."""
    done = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        while not done.wait(0.05):
            try:
                handler.wfile.write(b"H")
            except OSError:
                return

    receiver.answers = trickle
    with pytest.raises(TransientHttpError, match=r"no answer within 0\.5 s"):
        Outbound([LOOPBACK]).post_json(receiver.url, {}, timeout=0.5)
    done.set()


def test_an_endless_body_is_not_read(receiver: Receiver) -> None:
    done = threading.Event()

    def pour(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        try:
            while not done.is_set():
                handler.wfile.write(b"x" * 65536)
        except OSError:
            return

    receiver.answers = pour
    Outbound([LOOPBACK]).post_json(receiver.url, {})
    done.set()
