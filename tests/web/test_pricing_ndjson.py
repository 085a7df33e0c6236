"""POST /api/pricing/batch with a report on each line."""

import json
import socket
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from sef.errors import Unavailable
from sef.prices.parse import LONGEST_LINE
from sef.prices.reports import MAX_SHOWN
from tests.db.rows import stored_points
from tests.waiting import LIMIT, until
from tests.web.conftest import NO_CLOUD
from tests.web.server import Server

T = 1637500000


def line(number: int, agent_id: str = "a", **fields: Any) -> str:
    report = {
        "agent_id": agent_id,
        "pool_id": "p",
        "spot_price": 0.05,
        "timestamp": T + number * 60,
    }
    return json.dumps(report | fields)


def post(client: FlaskClient, lines: Iterable[str], kind: str = "application/x-ndjson") -> Any:
    body = "".join(f"{one}\n" for one in lines)
    answer = client.post("/api/pricing/batch", data=body, content_type=kind)
    assert answer.status_code == 200, answer.json
    return answer.json


@pytest.mark.parametrize(
    "kind",
    ["application/x-ndjson", "application/ndjson; charset=utf-8", "application/jsonl"],
)
def test_each_line_is_a_report(module_client: FlaskClient, module_database: str, kind: str) -> None:
    agent = uuid4().hex
    sent = [line(0, agent), line(20, agent), line(0, agent), ""]
    assert post(module_client, sent, kind) == {
        "status": "success",
        "accepted": 2,
        "buffered": 0,
        "duplicates": 1,
        "interpolated": 3,
        "rejected_total": 0,
        "rejected": [],
    }
    assert len(stored_points(module_database, agent, "p")) == 5


def test_an_empty_body_stores_nothing(module_client: FlaskClient) -> None:
    assert post(module_client, [])["accepted"] == 0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param("{", "invalid_json", id="no JSON"),
        pytest.param('{"reports": []}', "invalid_agent_id", id="a whole batch in a line"),
        pytest.param("7", "invalid_body", id="a number"),
        pytest.param(line(1, spot_price=-1), "spot_price_not_positive", id="a bad report"),
        pytest.param("x" * (LONGEST_LINE + 1), "line_too_long", id="a line that is too long"),
    ],
)
def test_a_bad_line_is_rejected_alone_with_its_number(
    module_client: FlaskClient, bad: str, reason: str
) -> None:
    agent = uuid4().hex
    result = post(module_client, [line(0, agent), "", bad, line(1, agent)])
    assert (result["accepted"], result["rejected_total"]) == (2, 1)
    (rejected,) = result["rejected"]
    assert (rejected["line"], rejected["reason"]) == (3, reason)
    assert rejected["message"].endswith((".", "-"))


def test_only_the_first_rejected_lines_are_listed(module_client: FlaskClient) -> None:
    agent = uuid4().hex
    result = post(module_client, ["{"] * (MAX_SHOWN + 500) + [line(0, agent)])
    assert (result["accepted"], result["rejected_total"]) == (1, MAX_SHOWN + 500)
    assert [entry["line"] for entry in result["rejected"]] == list(range(1, MAX_SHOWN + 1))


@pytest.mark.databases("sqlite", "mariadb")
def test_lines_stored_before_a_database_failure_stay_and_may_be_repeated(
    make_app: Callable[..., Flask], database_url: str
) -> None:
    app = make_app(**NO_CLOUD)
    sef, sent = app.extensions["sef"], [line(number) for number in range(2500)]
    write, calls = sef._reports._write, []

    def write_twice(reports: Any) -> Any:
        calls.append(len(reports))
        if len(calls) == 3:
            raise Unavailable
        return write(reports)

    sef._reports._write = write_twice
    client = app.test_client()
    body = "\n".join(sent)
    answer = client.post("/api/pricing/batch", data=body, content_type="application/x-ndjson")
    assert (answer.status_code, answer.json["reason"]) == (503, "database_unavailable")
    assert "The first 2000 lines are stored" in answer.json["message"]
    assert answer.headers["Retry-After"].isdigit()
    assert len(stored_points(database_url, "a", "p")) == 2000

    result = post(client, sent)
    assert (result["accepted"], result["duplicates"]) == (500, 2000)
    assert calls == [1000, 1000, 500, 1000, 1000, 500]


def test_a_body_of_any_size_is_stored_while_it_arrives(
    server: Server, module_database: str
) -> None:
    """A chunked body above the limit of JSON: points are stored before the body ends."""
    agent, stored = uuid4().hex, []

    def body() -> Iterator[bytes]:
        for number in range(12_000):
            yield (line(number, agent, note="x" * 900) + "\n").encode()
        stored.append(until(lambda: len(stored_points(module_database, agent, "p"))))
        yield line(12_000, agent).encode()

    answer = requests.post(
        f"{server.url}/api/pricing/batch",
        data=body(),
        headers={"Content-Type": "application/x-ndjson"},
        timeout=2 * LIMIT,
    )
    assert answer.status_code == 200, answer.text
    assert (answer.json()["accepted"], answer.json()["rejected"]) == (12_001, [])
    assert stored[-1] > 0  # before the end of the body


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with a length", "in chunks"])
@pytest.mark.databases("sqlite", "mariadb")
def test_complete_lines_of_an_incomplete_body_are_stored(
    server: Server, module_database: str, is_chunked: bool
) -> None:
    agent = uuid4().hex
    text = "".join(f"{line(number, agent)}\n" for number in range(3000)).encode()
    text += line(3000, agent).encode()[:-5]
    head = (
        b"POST /api/pricing/batch HTTP/1.1\r\nHost: sef\r\nContent-Type: application/x-ndjson\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        if is_chunked:
            head += b"Transfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head + f"{len(text):x}\r\n".encode() + text + b"\r\n")
        else:
            head += f"Content-Length: {len(text) + 1000}\r\n\r\n".encode()
            connection.sendall(head + text)
        until(lambda: len(stored_points(module_database, agent, "p")) >= 2000)
    latest = datetime.fromtimestamp(T, UTC) + timedelta(minutes=3000)
    assert all(point.at < latest for point in stored_points(module_database, agent, "p"))

    whole = "".join(f"{line(number, agent)}\n" for number in range(3001))
    again = requests.post(
        f"{server.url}/api/pricing/batch",
        data=whole,
        headers={"Content-Type": "application/x-ndjson"},
        timeout=2 * LIMIT,
    ).json()
    assert again["accepted"] + again["duplicates"] == 3001
    assert len(stored_points(module_database, agent, "p")) == 3001
