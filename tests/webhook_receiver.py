"""Receive webhooks and messages in tests."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """An HTTP server that records its requests, on a free port unless one is given.

    `got` has the path, headers and body of every request; `taken` has the bodies of the requests
    that were answered with 200.
    """

    def __init__(self, path: str = "", port: int = 0) -> None:
        self.got: list[tuple[str, dict[str, str], Any]] = []
        self.taken: list[Any] = []
        self.status = 200
        self.location: str | None = None
        self.answers: Callable[[BaseHTTPRequestHandler], None] | None = None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = self.path, dict(self.headers), json.loads(body)
                receiver.got.append(request)
                if receiver.answers:
                    receiver.answers(self)
                    return
                if receiver.status == 200:
                    receiver.taken.append(request[2])
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/{path}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
