"""The short way of a report: what most requests are is answered ahead of Flask.

Flask takes as long for a request as SEF does for the report in it. Here only the plainest form is
answered, as Flask would answer it; all else, an error above all, takes the ordinary way.
"""

import json
import re
from collections.abc import Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from sef.errors import Refused
from sef.parsing import parse_json
from sef.terms import AGENT_ID_LENGTH
from sef.web.facade import Answer, Facade

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

FAILED = "sef.failed"
"""Where the route finds the error that a report has met already."""

LONGEST = 64 * 1024
_PATH = re.compile(rf"/api/agents/([A-Za-z0-9._:@-]{{1,{AGENT_ID_LENGTH}}})/pricing")
_LENGTH = re.compile("[0-9]{1,5}")
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


class ReportFastPath:
    """A WSGI application in front of the backend's own."""

    def __init__(self, application: "WSGIApplication", sef: Facade) -> None:
        self.application = application
        self._sef = sef

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        answer = self._take(environ)
        if answer is None:
            return self.application(environ, start_response)
        body = f"{_ENCODE(answer)}\n".encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers)
        return [body]

    def _take(self, environ: "WSGIEnvironment") -> Answer | None:
        """The answer to a report that was taken, or None: it is for Flask to answer."""
        path = _PATH.fullmatch(environ["PATH_INFO"])
        if path is None or environ["REQUEST_METHOD"] != "POST" or "HTTP_ORIGIN" in environ:
            return None
        said = environ.get("CONTENT_LENGTH") or ""
        length = int(said) if _LENGTH.fullmatch(said) else 0
        if not 0 < length <= LONGEST:
            return None
        body = environ["wsgi.input"].read(length)
        try:
            if len(body) == length:
                record = self._sef.process_incoming_data(path[1], "pricing", parse_json(body))
                if record["status"] != "rejected":
                    return report_answer(record)
        except Refused:
            pass  # nothing was done, and Flask finds out the same
        except Exception as error:
            # It may have cost a wait, or be one too many: it is told, not tried again.
            environ[FAILED] = error
        environ["wsgi.input"] = BytesIO(body)
        return None


def report_answer(record: Answer) -> dict[str, Any]:
    """What a caller is told of a report that was taken."""
    if record["status"] == "buffered":
        return {"status": "buffered", "message": "Waiting for replica data"}
    return {
        "status": "success",
        "data_quality": record["data_quality_flag"],
        "interpolated": record["interpolated"],
    }
