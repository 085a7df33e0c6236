"""The fast path answers reports exactly as Flask does."""

import json
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import Client, EnvironBuilder

from sef import config
from sef.errors import Overloaded
from sef.main import create_app
from sef.web.errors import register_fallback_handlers
from sef.web.fast_path import ReportFastPath
from sef.web.prices import prices_blueprint
from sef.web.request_parsing import MAX_BODY
from tests.web.conftest import NO_CLOUD

T = 1637500000
REPORT: dict[str, Any] = {"spot_price": 0.05, "pool_id": "pool-1", "timestamp": T}
PATH = "/api/agents/{}/pricing"
NUMBERS = count()

REQUESTS = [
    pytest.param({}, id="plain"),
    pytest.param({"content_type": "text/plain"}, id="another content type"),
    pytest.param({"json": {**REPORT, "timestamp": "2021-11-21T13:06:40+02:00"}}, id="ISO 8601"),
    pytest.param({"json": {**REPORT, "is_replica": True}}, id="a replica's"),
    pytest.param({"data": "\ufeff" + json.dumps(REPORT)}, id="with a byte order mark"),
    pytest.param({"data": json.dumps(REPORT).encode("utf-16")}, id="in UTF-16"),
    pytest.param({"data": b" " * 60_000 + json.dumps(REPORT).encode()}, id="long"),
    pytest.param(
        {"data": b" " * 70_000 + json.dumps(REPORT).encode()}, id="too long for the fast path"
    ),
    pytest.param({"data": b" " * MAX_BODY + json.dumps(REPORT).encode()}, id="too long"),
    pytest.param({"data": b""}, id="no body"),
    pytest.param({"data": b"{"}, id="no JSON"),
    pytest.param({"data": b'{"spot_price": NaN}'}, id="NaN"),
    pytest.param({"json": []}, id="no object"),
    pytest.param({"json": {}}, id="an empty object"),
    pytest.param({"json": {**REPORT, "spot_price": -1}}, id="a bad price"),
    pytest.param({"json": {**REPORT, "timestamp": time.time() + 4000}}, id="a bad time"),
    pytest.param({"method": "GET"}, id="another method"),
    pytest.param({"method": "OPTIONS"}, id="a preflight"),
    pytest.param({"path": PATH + "/"}, id="another path"),
    pytest.param({"path": "/api/agents/{}/prices"}, id="an unknown path"),
    pytest.param({"path": PATH.format("{}/of/slashes")}, id="an id with slashes"),
    pytest.param({"path": PATH.format("{}%20of")}, id="an invalid id"),
    pytest.param({"path": PATH.format("{}" + "a" * 80)}, id="an id that is too long"),
    pytest.param({"query_string": "dry_run=true"}, id="an unknown parameter"),
    pytest.param({"headers": {"Origin": "https://a.example"}}, id="an allowed origin"),
    pytest.param({"headers": {"Origin": "https://b.example"}}, id="another origin"),
    pytest.param({"length": "9999"}, id="cut off"),
    pytest.param({"length": "10"}, id="longer than it says"),
    pytest.param({"length": "-1"}, id="a negative length"),
    pytest.param({"length": "²"}, id="a length with another digit"),
    pytest.param({"length": None}, id="no length"),
]


@pytest.fixture(scope="module", params=["", "https://a.example"], ids=["without CORS", "with CORS"])
def fast_path(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReportFastPath]:
    url = f"sqlite:///{tmp_path_factory.mktemp('fast-path') / 'sef.db'}"
    origins = {"cors_origins": request.param}
    app = create_app(config.load(database_url=url, run_jobs=False, **NO_CLOUD, **origins))
    assert isinstance(app.wsgi_app, ReportFastPath)
    yield app.wsgi_app
    app.extensions["sef"].close()


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_answer_equals_that_of_flask(
    fast_path: ReportFastPath, request_: dict[str, Any]
) -> None:
    number = next(NUMBERS)

    def answer(of: Any, agent_id: str) -> tuple[int, dict[str, str], bytes]:
        given = {"path": PATH, "method": "POST", "json": REPORT} | request_
        if "data" in given:
            del given["json"]
        length = given.pop("length", "")
        given["path"] = given["path"].format(agent_id)
        environ = EnvironBuilder(**given).get_environ()
        if length != "":
            environ.pop("CONTENT_LENGTH")
            environ |= {} if length is None else {"CONTENT_LENGTH": length}
        response = Client(of).open(environ)
        headers = dict(response.headers)
        if "HTTP_ORIGIN" not in environ:
            # flask-cors adds this header to every answer. Only browsers read it, and their requests
            # carry an Origin.
            headers.pop("Access-Control-Allow-Origin", None)
        return response.status_code, headers, response.data.replace(agent_id.encode(), b"_")

    for _ in range(2):  # the second is a repeat
        of_flask = answer(fast_path.application, f"flask-{number}")
        assert answer(fast_path, f"ahead-{number}") == of_flask


def test_only_stored_reports_are_answered_before_flask(client: FlaskClient) -> None:
    fast_path, flask_paths = client.application.wsgi_app, []
    assert isinstance(fast_path, ReportFastPath)

    def flask(environ: Any, start_response: Any) -> Any:
        flask_paths.append(environ["PATH_INFO"])
        return fast_path.application(environ, start_response)

    ahead = Client(ReportFastPath(flask, client.application.extensions["sef"]))
    assert ahead.post(PATH.format("a"), json=REPORT).get_json()["status"] == "success"
    assert not flask_paths
    ahead.post(PATH.format("a"), json={**REPORT, "spot_price": 0})
    assert flask_paths == [PATH.format("a")]


@pytest.mark.parametrize(("error", "status"), [(Overloaded(), 503), (KeyError("defect"), 500)])
def test_a_failed_report_is_answered_and_not_retried(error: Exception, status: int) -> None:
    attempts = []

    class Failing:
        def process_incoming_data(self, *given: Any) -> Any:
            attempts.append(given)
            raise error

    app = Flask(__name__)
    register_fallback_handlers(app)
    app.register_blueprint(prices_blueprint(Failing()))  # type: ignore[arg-type]
    app.wsgi_app = ReportFastPath(app.wsgi_app, Failing())  # type: ignore[arg-type,method-assign]
    response = app.test_client().post(PATH.format("a"), json=REPORT)
    assert response.status_code == status
    assert ("Retry-After" in response.headers) is (status == 503)
    assert len(attempts) == 1
