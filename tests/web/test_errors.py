"""Whatever is sent, the answer is a 4xx that says why, and nothing is stored."""

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


def assert_is_refused(status: int, told: Any, expected: int, reason: str) -> None:
    assert status == expected, told
    assert told.keys() == {"status", "reason", "message"}
    assert (told["status"], told["reason"]) == ("error", reason)
    assert re.fullmatch("[a-z]+(_[a-z]+)*", told["reason"])
    assert SENTENCE.fullmatch(told["message"]), told["message"]


def assert_refused(answer: TestResponse, status: int, reason: str) -> None:
    assert answer.content_type == "application/json"
    assert_is_refused(answer.status_code, answer.json, status, reason)


@pytest.fixture
def refusing(module_client: FlaskClient, module_database: str) -> Iterator[FlaskClient]:
    """A client in whose test nothing may be stored."""
    before = row_counts(module_database)
    yield module_client
    assert row_counts(module_database) == before


@pytest.mark.parametrize("path", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "invalid_json", id="empty"),
        pytest.param(b" \r\n", "invalid_json", id="blank"),
        pytest.param(b"spot_price=0.05&pool_id=p", "invalid_json", id="a form"),
        pytest.param(b"<report/>", "invalid_json", id="XML"),
        pytest.param(REPORT[:-1].encode(), "invalid_json", id="cut off"),
        pytest.param((REPORT * 2).encode(), "invalid_json", id="twice"),
        pytest.param(REPORT.replace('"', "'").encode(), "invalid_json", id="single quotes"),
        pytest.param(b"\xff\xfe\xfd", "invalid_json", id="not text"),
        pytest.param(b'{"pool_id": "\xc3\x28"}', "invalid_json", id="not UTF-8"),
        pytest.param(b'{"pool_id": "a\nb"}', "invalid_json", id="a bare line's end in text"),
        pytest.param(b"[" * 100_000, "invalid_json", id="100,000 open brackets"),
        pytest.param(
            b"[" * 100_000 + b"]" * 100_000, "invalid_json", id="100,000 brackets, closed again"
        ),
        pytest.param(
            b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "invalid_json", id="100,000 objects"
        ),
        pytest.param(b"NaN", "invalid_json", id="NaN"),
        pytest.param(b'{"spot_price": NaN}', "invalid_json", id="a price of NaN"),
        pytest.param(b'{"spot_price": Infinity}', "invalid_json", id="a price of Infinity"),
        pytest.param(b'{"timestamp": -Infinity}', "invalid_json", id="a time of -Infinity"),
        pytest.param(
            b'{"spot_price": ' + b"9" * 5000 + b"}", "invalid_json", id="a number of 5,000 digits"
        ),
        pytest.param(b"[]", "invalid_body", id="a list"),
        pytest.param(b"[" + REPORT.encode() + b"]", "invalid_body", id="a list of a report"),
        pytest.param(b"null", "invalid_body", id="null"),
        pytest.param(b"0.05", "invalid_body", id="a number"),
        pytest.param(b'"report"', "invalid_body", id="text"),
        pytest.param(b"true", "invalid_body", id="true"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(
    refusing: FlaskClient, path: str, body: bytes, reason: str
) -> None:
    assert_refused(refusing.post(path, data=body), 400, reason)


@pytest.mark.parametrize(
    ("field", "token", "reason"),
    [
        ("spot_price", "1e309", "spot_price_too_high"),
        ("spot_price", "-1e309", "spot_price_not_positive"),
        ("spot_price", "1e-309", "spot_price_not_positive"),
        ("spot_price", "1e999999999", "spot_price_too_high"),
        ("spot_price", "1e99999999999999999999", "invalid_json"),
        ("spot_price", "1e-999999999", "spot_price_not_positive"),
        ("spot_price", "-0", "spot_price_not_positive"),
        ("spot_price", "9" * 4000, "spot_price_too_high"),
        ("spot_price", "0." + "0" * 5000 + "1", "spot_price_not_positive"),
        ("spot_price", "1000." + "0" * 5000 + "1", "spot_price_too_high"),
        ("spot_price", '"NaN"', "invalid_spot_price"),
        ("timestamp", "1e309", "invalid_timestamp"),
        ("timestamp", "1e999999999", "invalid_timestamp"),
        ("timestamp", "9" * 4000, "invalid_timestamp"),
        ("timestamp", "253402300799", "invalid_timestamp"),
        ("timestamp", "253402300798.9999999", "timestamp_in_future"),
        ("timestamp", '"9999-12-31T23:59:59Z"', "timestamp_in_future"),
        ("timestamp", '"9999-12-31T23:59:59.999999+00:00"', "timestamp_in_future"),
        ("timestamp", '"9999-12-31T23:59:59-14:00"', "invalid_timestamp"),
        ("timestamp", '"0001-01-01T00:00:00+14:00"', "invalid_timestamp"),
        ("timestamp", '"0001-01-01T00:00:00Z"', "timestamp_too_old"),
        ("timestamp", '"2021-11-21T13:06:40Z\\r\\n"', "invalid_timestamp"),
        ("timestamp", '"\\ud800"', "invalid_timestamp"),
        ("pool_id", '"\\ud800"', "invalid_pool_id"),
        ("pool_id", '"p\\r\\nSet-Cookie: a=b"', "invalid_pool_id"),
        ("pool_id", '"p\\u0000"', "invalid_pool_id"),
        ("pool_id", '"\\u202epool"', "invalid_pool_id"),
        ("instance_id", '"i-1\\r\\n"', "invalid_instance_id"),
        ("instance_id", '"\\udfff"', "invalid_instance_id"),
        ("is_replica", "NaN", "invalid_json"),
    ],
    ids=lambda value: value if len(value) < 40 else f"{value[:12]}... {len(value)} long",
)
def test_a_value_past_all_bounds_is_refused(
    refusing: FlaskClient, field: str, token: str, reason: str
) -> None:
    tokens = {"spot_price": "0.05", "pool_id": '"p"', "timestamp": str(T)} | {field: token}
    body = "{" + ", ".join(f'"{name}": {value}' for name, value in tokens.items()) + "}"
    assert_refused(refusing.post("/api/agents/a/pricing", data=body), 400, reason)


def test_half_a_character_in_utf8_is_refused(refusing: FlaskClient) -> None:
    body = REPORT.encode().replace(b'"p"', b'"\xed\xa0\x80"')
    assert_refused(refusing.post("/api/agents/a/pricing", data=body), 400, "invalid_pool_id")


def test_of_a_field_given_twice_the_last_counts(refusing: FlaskClient) -> None:
    body = REPORT[:-1] + ', "spot_price": -1}'
    answer = refusing.post("/api/agents/a/pricing", data=body)
    assert_refused(answer, 400, "spot_price_not_positive")


@pytest.mark.parametrize(
    "agent_id",
    ["%00", "a%00", "%20", "a b", "%ED%A0%80", "%FF", "%C3%A4", "a%5Cb", "a" * 65],
)
@pytest.mark.parametrize(
    ("method", "route"),
    [
        ("POST", "pricing"),
        ("GET", "pricing"),
        ("POST", "interruption"),
        ("GET", "sef-status"),
        ("GET", "events"),
        ("POST", "auto-switch/enable"),
        ("POST", "manual-replica/disable"),
        ("POST", "manual-switch"),
    ],
)
def test_an_id_that_cannot_be_is_refused(
    refusing: FlaskClient, method: str, route: str, agent_id: str
) -> None:
    body = {"signal_type": "rebalance-recommendation"} | json.loads(REPORT)
    answer = refusing.open(
        f"/api/agents/{agent_id}/{route}", method=method, json=body if method == "POST" else None
    )
    assert_refused(answer, 400, "invalid_agent_id")


@pytest.mark.parametrize("agent_id", ["a%0D%0Ab", "a%0A", "%0Aa", "%0D%0A"])
@pytest.mark.parametrize("route", ["pricing", "interruption", "manual-switch"])
def test_no_id_has_a_lines_end(refusing: FlaskClient, route: str, agent_id: str) -> None:
    body = {"signal_type": "rebalance-recommendation"} | json.loads(REPORT)
    answer = refusing.post(f"/api/agents/{agent_id}/{route}", json=body)
    assert answer.status_code in (400, 404)
    reason = "not_found" if answer.status_code == 404 else "invalid_agent_id"
    assert_refused(answer, answer.status_code, reason)


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
def test_what_there_is_not_is_said(
    refusing: FlaskClient, method: str, path: str, status: int, reason: str
) -> None:
    answer = refusing.open(path, method=method)
    assert_refused(answer, status, reason)
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("path", ["/healthz", "/api/agents/a/sef-status", "/api/pools"])
def test_a_slash_too_many_is_named(refusing: FlaskClient, path: str) -> None:
    assert refusing.get(f"{path}/").json["message"].endswith(f"without the trailing slash: {path}")


def test_who_asks_for_an_agent_is_told_where_it_is_shown(refusing: FlaskClient) -> None:
    answer = refusing.get("/api/agents/a")
    assert answer.json["message"].endswith("GET /api/agents/a/sef-status to read it.")


def test_a_path_that_is_none_says_where_all_are(refusing: FlaskClient) -> None:
    answer = refusing.post("/api/agents/a/auto-foo/enable")
    assert "docs/api.md" in answer.json["message"]


@pytest.mark.parametrize("path", BODIES.values(), ids=BODIES)
def test_a_body_of_ten_megabytes_is_refused(refusing: FlaskClient, path: str) -> None:
    body = REPORT[:-1] + f', "padding": "{"x" * 10_000_000}"' + "}"
    answer = refusing.post(path, data=body)
    assert_refused(answer, 413, "request_entity_too_large")
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
def test_a_signal_that_cannot_be_read_is_refused(
    refusing: FlaskClient, body: Any, reason: str
) -> None:
    assert_refused(refusing.post("/api/agents/a/interruption", json=body), 400, reason)


def ask(server: Server, request: bytes, *, hang_up: bool = False) -> tuple[int, Any]:
    """Send bytes that no client library would, and read the answer to its end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        with suppress(ConnectionError):  # it may hang up on what is too long
            connection.sendall(request)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        told = b""
        while part := connection.recv(65536):
            told += part
    head, _, body = told.partition(b"\r\n\r\n")
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
def test_a_real_server_refuses_the_same(
    server: Server, module_database: str, request_bytes: bytes, status: int, reason: str
) -> None:
    before = row_counts(module_database)
    assert_is_refused(*ask(server, request_bytes), status, reason)
    assert row_counts(module_database) == before


def test_a_real_server_refuses_a_body_that_breaks_off_where_it_could_end(
    server: Server, module_database: str
) -> None:
    before = row_counts(module_database)
    request = post_bytes("/api/agents/a/pricing", REPORT.encode(), "Content-Length: 500")
    assert_is_refused(*ask(server, request, hang_up=True), 400, "body_cut_off")
    assert row_counts(module_database) == before
