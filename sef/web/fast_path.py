"""The fast path of pricing reports: answer plain reports before Flask sees the request.

For a plain report Flask takes as much CPU as SEF itself. The fast path answers only reports of the
plainest form, exactly as Flask would. Flask answers all other requests, errors included.
"""

import json
import re
from collections.abc import Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from sef.errors import Refused
from sef.parsing import parse_json
from sef.terms import AGENT_ID_LENGTH

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from smart_emergency_fallback import SmartEmergencyFallback

FAST_PATH_ERROR = "sef.fast_path_error"
"""Key of the WSGI environment. It holds the error of a report that the fast path tried to store;
the route raises that error."""

MAX_REPORT_BYTES = 64 * 1024
"""Maximum length of a body that the fast path reads."""
_PATH = re.compile(rf"/api/agents/([A-Za-z0-9._:@-]{{1,{AGENT_ID_LENGTH}}})/pricing")
_LENGTH = re.compile("[0-9]{1,5}")
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


class ReportFastPath:
    """A WSGI application in front of the Flask application."""

    def __init__(self, application: "WSGIApplication", sef: "SmartEmergencyFallback") -> None:
        self.application = application
        self._sef = sef

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        answer = self._store_report(environ)
        if answer is None:
            return self.application(environ, start_response)
        body = f"{_ENCODE(answer)}\n".encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers)
        return [body]

    def _store_report(self, environ: "WSGIEnvironment") -> dict[str, Any] | None:
        """Return the answer to a stored report, or None if Flask has to answer the request."""
        path = _PATH.fullmatch(environ["PATH_INFO"])
        if path is None or environ["REQUEST_METHOD"] != "POST" or "HTTP_ORIGIN" in environ:
            return None
        header = environ.get("CONTENT_LENGTH") or ""
        length = int(header) if _LENGTH.fullmatch(header) else 0
        if not 0 < length <= MAX_REPORT_BYTES:
            return None
        body = environ["wsgi.input"].read(length)
        try:
            if len(body) == length:
                record = self._sef.process_incoming_data(path[1], "pricing", parse_json(body))
                if record["status"] != "rejected":
                    return report_answer(record)
        except Refused:
            pass  # nothing was stored; the route parses the body again and answers with the error
        except Exception as error:
            # The call may have waited for the database, or was rejected by overload. A second
            # attempt would repeat that, so the route only reports the error.
            environ[FAST_PATH_ERROR] = error
        environ["wsgi.input"] = BytesIO(body)
        return None


def report_answer(record: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a report that was stored or buffered."""
    if record["status"] == "buffered":
        return {"status": "buffered", "message": "Waiting for replica data"}
    return {
        "status": "success",
        "data_quality": record["data_quality_flag"],
        "interpolated": record["interpolated"],
    }
