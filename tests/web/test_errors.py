"""Bad requests are answered with a 4xx that says why, and nothing is stored."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.db.rows import row_counts
from tests.web.server import Server

T = 1637500000
REPORT = '{"spot_price": 0.05, "pool_id": "p", "timestamp": 1637500000}'
SENTENCE = re.compile(r"\w+( [^\s]+){2,}")

BODIES = {
    "pricing": "/api/agents/a/pricing",
    "batch": "/api/pricing/batch",
    "interruption": "/api/agents/a/interruption",
}


def report_json(**tokens: str) -> str:
    """Write a report whose values are the given JSON tokens."""
    values = {"spot_price": "0.05", "pool_id": '"p"', "timestamp": str(T)} | tokens
    return "{" + ", ".join(f'"{name}": {value}' for name, value in values.items()) + "}"


def assert_is_error(status: int, body: Any, expected: int, reason: str) -> None:
    assert status == expected, body
    assert body.keys() == {"status", "reason", "message"}
    assert (body["status"], body["reason"]) == ("error", reason)
    assert re.fullmatch("[a-z]+(_[a-z]+)*", body["reason"])
    assert SENTENCE.fullmatch(body["message"]), body["message"]


def assert_rejected(answer: TestResponse, status: int, reason: str) -> None:
    assert answer.content_type == "application/json"
    assert_is_error(answer.status_code, answer.json, status, reason)


@pytest.fixture
def rejecting(module_client: FlaskClient, module_database: str) -> Iterator[FlaskClient]:
    """A client whose requests must store nothing."""
    before = row_counts(module_database)
    yield module_client
    assert row_counts(module_database) == before


@pytest.mark.parametrize("path", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "invalid_json", id="empty"),
        pytest.param(b"spot_price=0.05&pool_id=p", "invalid_json", id="a form"),
        pytest.param(b"\xff\xfe\xfd", "invalid_json", id="not text"),
        pytest.param(b"[" * 100_000, "invalid_json", id="100,000 open brackets"),
        pytest.param(b"NaN", "invalid_json", id="NaN"),
        pytest.param(b"[]", "invalid_body", id="a list"),
        pytest.param(b"null", "invalid_body", id="null"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_rejected(
    rejecting: FlaskClient, path: str, body: bytes, reason: str
) -> None:
    assert_rejected(rejecting.post(path, data=body), 400, reason)


@pytest.mark.parametrize(
    ("field", "token", "reason"),
    [
        ("spot_price", "1e999999999", "spot_price_too_high"),
        ("spot_price", "-0", "spot_price_not_positive"),
        ("timestamp", "1e309", "invalid_timestamp"),
        ("timestamp", '"9999-12-31T23:59:59Z"', "timestamp_in_future"),
        ("timestamp", '"0001-01-01T00:00:00Z"', "timestamp_too_old"),
        ("pool_id", '"p\\r\\nSet-Cookie: a=b"', "invalid_pool_id"),
        ("instance_id", '"\\udfff"', "invalid_instance_id"),
    ],
)
def test_a_value_out_of_range_is_rejected(
    rejecting: FlaskClient, field: str, token: str, reason: str
) -> None:
    """tests/test_parsing.py has the whole table of values."""
    body = report_json(**{field: token})
    assert_rejected(rejecting.post("/api/agents/a/pricing", data=body), 400, reason)


def test_the_last_of_two_equal_fields_counts(rejecting: FlaskClient) -> None:
    body = REPORT[:-1] + ', "spot_price": -1}'
    answer = rejecting.post("/api/agents/a/pricing", data=body)
    assert_rejected(answer, 400, "spot_price_not_positive")


INVALID_IDS = ["%00", "a%00", "%20", "a b", "%ED%A0%80", "%FF", "%C3%A4", "a%5Cb", "a" * 65]
ROUTES = [
    ("POST", "pricing"),
    ("GET", "pricing"),
    ("POST", "interruption"),
    ("GET", "sef-status"),
    ("GET", "events"),
    ("POST", "auto-switch/enable"),
    ("POST", "manual-replica/disable"),
    ("POST", "manual-switch"),
]


@pytest.mark.parametrize(
    ("method", "route", "agent_id"),
    [
        *(("POST", "pricing", agent_id) for agent_id in INVALID_IDS),
        *((method, route, "a%00") for method, route in ROUTES[1:]),
        *((method, route, "%FF") for method, route in ROUTES[1:]),
    ],
)
def test_an_invalid_agent_id_is_rejected_on_every_route(
    rejecting: FlaskClient, method: str, route: str, agent_id: str
) -> None:
    body = {"signal_type": "rebalance-recommendation"} | json.loads(REPORT)
    answer = rejecting.open(
        f"/api/agents/{agent_id}/{route}", method=method, json=body if method == "POST" else None
    )
    assert_rejected(answer, 400, "invalid_agent_id")


@pytest.mark.parametrize("agent_id", ["a%0D%0Ab", "a%0A", "%0Aa", "%0D%0A"])
@pytest.mark.parametrize("route", ["pricing", "interruption", "manual-switch"])
def test_an_id_with_a_line_break_is_rejected(
    rejecting: FlaskClient, route: str, agent_id: str
) -> None:
    body = {"signal_type": "rebalance-recommendation"} | json.loads(REPORT)
    answer = rejecting.post(f"/api/agents/{agent_id}/{route}", json=body)
    assert answer.status_code in (400, 404)
    reason = "not_found" if answer.status_code == 404 else "invalid_agent_id"
    assert_rejected(answer, answer.status_code, reason)


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/api", 404, "not_found"),
        ("GET", "/api/agents/", 404, "not_found"),
        ("POST", "/api/agents/a/auto-foo/enable", 404, "not_found"),
        ("GET", "/api/agents/a/auto-switch", 404, "not_found"),
        ("GET", "/api/agents/a/sef-status/", 404, "not_found"),
        ("POST", "/api/agents/a/manual-switch/", 404, "not_found"),
        ("GET", "/healthz/", 404, "not_found"),
        ("PUT", "/api/agents/a/sef-status/", 404, "not_found"),
        ("GET", "/api/agents/a", 405, "method_not_allowed"),
        ("GET", "/api/agents/a/sef-status", 404, "agent_not_found"),
        ("GET", "/api/agents/a/pricing", 404, "agent_not_found"),
        ("GET", "/api/agents/a/events", 404, "agent_not_found"),
        ("POST", "/api/agents/a/auto-switch/enable", 404, "agent_not_found"),
        ("GET", "/static/../backend.py", 404, "not_found"),
        ("GET", "/api/pricing/batch", 405, "method_not_allowed"),
        ("PUT", "/api/agents", 405, "method_not_allowed"),
        ("DELETE", "/api/agents/a/pricing", 405, "method_not_allowed"),
        ("GET", "/api/agents/a/interruption", 405, "method_not_allowed"),
        ("GET", "/api/agents/a/manual-switch", 405, "method_not_allowed"),
        ("PATCH", "/api/agents/a/sef-status", 405, "method_not_allowed"),
        ("BREW", "/api/agents", 405, "method_not_allowed"),
    ],
)
def test_an_unknown_path_method_or_agent_is_an_error(
    rejecting: FlaskClient, method: str, path: str, status: int, reason: str
) -> None:
    answer = rejecting.open(path, method=method)
    assert_rejected(answer, status, reason)
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("path", ["/healthz", "/api/agents/a/sef-status", "/api/pools"])
def test_a_trailing_slash_is_named(rejecting: FlaskClient, path: str) -> None:
    assert rejecting.get(f"{path}/").json["message"].endswith(f"without the trailing slash: {path}")


def test_get_of_an_agent_names_its_status(rejecting: FlaskClient) -> None:
    answer = rejecting.get("/api/agents/a")
    assert answer.json["message"].endswith("GET /api/agents/a/sef-status to read it.")


def test_an_unknown_path_names_the_documentation(rejecting: FlaskClient) -> None:
    answer = rejecting.post("/api/agents/a/auto-foo/enable")
    assert "docs/api.md" in answer.json["message"]


@pytest.mark.parametrize("path", BODIES.values(), ids=BODIES)
def test_a_body_of_ten_megabytes_is_rejected(rejecting: FlaskClient, path: str) -> None:
    body = REPORT[:-1] + f', "padding": "{"x" * 10_000_000}"' + "}"
    answer = rejecting.post(path, data=body)
    assert_rejected(answer, 413, "request_entity_too_large")
    assert "larger than 8 MiB" in answer.json["message"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param({}, "unknown_signal_type", id="no signal"),
        pytest.param({"signal_type": "earthquake"}, "unknown_signal_type", id="another signal"),
        pytest.param({"signal_type": None}, "unknown_signal_type", id="a null signal"),
        pytest.param({"signal_type": ["termination-notice"]}, "unknown_signal_type", id="a list"),
        pytest.param({"signal_type": {}}, "unknown_signal_type", id="an object"),
        pytest.param({"signal_type": "termination-notice"}, "missing_timestamp", id="no time"),
        pytest.param(
            {"signal_type": "termination-notice", "timestamp": "soon"},
            "invalid_timestamp",
            id="a word for the time",
        ),
        pytest.param(
            {"signal_type": "termination-notice", "timestamp": T, "termination_time": "soon"},
            "invalid_termination_time",
            id="a word for the end",
        ),
        pytest.param(
            {"signal_type": "termination-notice", "timestamp": T, "instance_id": "i\r\n"},
            "invalid_instance_id",
            id="an instance of two lines",
        ),
    ],
)
def test_an_invalid_signal_is_rejected(rejecting: FlaskClient, body: Any, reason: str) -> None:
    assert_rejected(rejecting.post("/api/agents/a/interruption", json=body), 400, reason)


def ask(server: Server, request: bytes, *, hang_up: bool = False) -> tuple[int, Any]:
    """Send raw bytes, and read the whole answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        with suppress(ConnectionError):  # the server may close the connection of a body too long
            connection.sendall(request)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def post_bytes(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: sef", "Connection: close", *headers]
    if not any(header.startswith(("Content-Length", "Transfer")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("request_bytes", "status", "reason"),
    [
        pytest.param(
            post_bytes("/api/agents/a%0d%0ab/pricing", REPORT.encode()),
            404,
            "not_found",
            id="an id of two lines",
        ),
        pytest.param(
            post_bytes("/api/agents/%ff/pricing", REPORT.encode()),
            400,
            "invalid_agent_id",
            id="an id that is not UTF-8",
        ),
        pytest.param(
            post_bytes("/api/agents/a/pricing", b"[" * 100_000),
            400,
            "invalid_json",
            id="100,000 brackets",
        ),
        pytest.param(
            post_bytes("/api/agents/a/pricing", b"x" * 10_000_000),
            413,
            "request_entity_too_large",
            id="10 MB",
        ),
        pytest.param(
            post_bytes(
                "/api/agents/a/pricing",
                b"989680\r\n" + b"x" * 0x989680 + b"\r\n0\r\n\r\n",
                "Transfer-Encoding: chunked",
            ),
            413,
            "request_entity_too_large",
            id="10 MB in chunks",
        ),
        pytest.param(post_bytes("/api/nothing", b""), 404, "not_found", id="an unknown path"),
    ],
)
def test_a_real_server_rejects_the_same(
    server: Server, module_database: str, request_bytes: bytes, status: int, reason: str
) -> None:
    before = row_counts(module_database)
    assert_is_error(*ask(server, request_bytes), status, reason)
    assert row_counts(module_database) == before


def test_a_real_server_rejects_an_incomplete_body_that_is_valid_json(
    server: Server, module_database: str
) -> None:
    before = row_counts(module_database)
    request = post_bytes("/api/agents/a/pricing", REPORT.encode(), "Content-Length: 500")
    assert_is_error(*ask(server, request, hang_up=True), 400, "body_cut_off")
    assert row_counts(module_database) == before
