"""Serve the simulated EC2 over HTTP: AWS's calls, and a JSON control API under `/simulation/`.

    GET  health, instances, pools, faults, options, on-demand-prices
    PUT  pools/m5.large.us-east-1a       {"capacity": false, "room": 3, "price": "0.05"}, any
    PUT  options                         {"pending_seconds": 0}, any field of `Options`
    POST faults                          one `Rule`; DELETE removes all
    POST instances/i-0abc/terminate      terminates it at once, without a notice
    POST instances/i-0abc/interrupt      {"terminate_after_seconds": 120}; null only marks it
    POST instances/i-0abc/age            {"seconds": 600}: moves its launch time into the past
    DELETE instances                     terminates and forgets all

SIGTERM stops it.
"""

import json
import os
import socket
from collections.abc import Iterable
from dataclasses import asdict
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sef.simulator.server.ec2 import SimulatedEc2
from sef.simulator.server.prices import ON_DEMAND
from sef.simulator.server.wire import Call

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PREFIX = "/simulation/"


class Application:
    """The WSGI application.

    Args:
        state: the state folder, which `health` shows.
    """

    def __init__(self, ec2: SimulatedEc2, state: str) -> None:
        self._ec2 = ec2
        self._state = state

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path.startswith(PREFIX):
            status, answer = self._control(environ, path.removeprefix(PREFIX))
            return _json(start_response, status, answer)
        if path.startswith("/moto-api"):
            # It could reset moto, and the journal would no longer match moto's state.
            return _json(start_response, 404, {"message": "moto's own API is not served here"})
        answer = self._ec2.handle(Call.read(environ))
        if answer is None:  # the answer is to be lost
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        start_response(answer.status, answer.headers)
        return [answer.body]

    def _control(self, environ: "WSGIEnvironment", path: str) -> tuple[int, Any]:
        try:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            given = json.loads(body or b"{}")
            return 200, self._route(environ["REQUEST_METHOD"], unquote(path).split("/"), given)
        except LookupError as error:
            return 404, {"message": str(error.args[0])}
        except (ValueError, TypeError, ArithmeticError) as error:
            return 400, {"message": str(error) or "the request cannot be read"}

    def _route(self, method: str, path: list[str], given: dict[str, Any]) -> Any:
        match method, *path:
            case "GET", "health":
                return {"pid": os.getpid(), "state": self._state, "began_at": self._ec2.born}
            case "GET", "instances":
                return self._ec2.instances()
            case "GET", "pools":
                return self._ec2.pools()
            case "GET", "faults":
                return self._ec2.state.faults.listing()
            case "GET", "options":
                return asdict(self._ec2.state.options)
            case "GET", "on-demand-prices":
                return {kind: f"{price:f}" for kind, price in ON_DEMAND.items()}
            case "PUT", "pools", pool:
                price = given.get("price")
                self._ec2.change(
                    "set_pool",
                    pool=pool,
                    capacity=given.get("capacity"),
                    room=None if given.get("room") is None else int(given["room"]),
                    price=None if price is None else str(price),
                )
            case "PUT", "options":
                self._ec2.change("set_options", **given)
            case "POST", "faults":
                self._ec2.change("add_fault", **given)
            case "DELETE", "faults":
                self._ec2.change("clear_faults")
            case "DELETE", "instances":
                self._ec2.change("forget")
            case "POST", "instances", instance_id, "terminate":
                self._ec2.change("terminate", instance_id=instance_id)
            case "POST", "instances", instance_id, "age":
                self._ec2.change("age", instance_id=instance_id, seconds=float(given["seconds"]))
            case "POST", "instances", instance_id, "interrupt":
                after = given.get("terminate_after_seconds")
                self._ec2.change(
                    "interrupt",
                    instance_id=instance_id,
                    terminate_after_seconds=None if after is None else float(after),
                )
            case _:
                raise LookupError(f"no {method} {PREFIX}{'/'.join(path)}")
        return {}


def _json(start_response: "StartResponse", status: int, answer: Any) -> Iterable[bytes]:
    body = json.dumps(answer).encode()
    start_response(
        f"{status} {HTTPStatus(status).phrase}",
        [("Content-Type", "application/json"), ("Content-Length", str(len(body)))],
    )
    return [body]
