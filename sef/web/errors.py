"""Every error is answered as {"status": "error", "reason": ..., "message": "a sentence"}."""

import logging
import re

from flask import Blueprint, Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from sef.errors import Refused, SefError
from sef.web.request_parsing import MAX_BODY

log = logging.getLogger("sef")

RETRY_AFTER_SECONDS = "2"


def error_answer(status: int, reason: str, message: str) -> Response:
    answer = jsonify(status="error", reason=reason, message=message)
    answer.status_code = status
    if status == 503:
        answer.headers["Retry-After"] = RETRY_AFTER_SECONDS
    return answer


def register_error_handlers(routes: Blueprint | Flask) -> None:
    """Answer what SEF itself refuses; on a blueprint this touches no other route of the app."""

    @routes.errorhandler(Refused)
    def refused(error: Refused) -> Response:
        return error_answer(400, error.reason, error.message)

    @routes.errorhandler(SefError)
    def cannot(error: SefError) -> Response:
        return error_answer(error.status, error.reason, error.message)


def register_fallback_handlers(app: Flask) -> None:
    """Answer unknown paths, wrong methods, bodies that are too large, and defects."""

    @app.errorhandler(NotFound)
    def no_such_path(error: NotFound) -> Response:
        path = request.path
        hint = "docs/api.md lists the calls there are"
        if path.endswith("/"):
            hint = f"perhaps there is one without the slash: {path.rstrip('/')}"
        return error_answer(404, "not_found", f"There is no such path; {hint}")

    @app.errorhandler(MethodNotAllowed)
    def no_such_method(error: MethodNotAllowed) -> Response:
        # An id may have slashes, so that to register an agent any path will do. To a call that
        # there is not at all it would be of no use to say that PUT is allowed.
        if set(error.valid_methods or ()) == {"PUT", "OPTIONS"}:
            if "/" in request.path.removeprefix("/api/agents/"):
                return no_such_path(NotFound())
            error.description = f"PUT changes an agent; GET {request.path}/sef-status shows it."
        return http(error)

    @app.errorhandler(RequestEntityTooLarge)
    def too_large(error: RequestEntityTooLarge) -> Response:
        error.description = (
            f"A body has at most {MAX_BODY // 2**20} MiB; a batch as NDJSON may have any length."
        )
        return http(error)

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> Response:
        reason = re.sub(r"[^a-z]+", "_", error.name.lower())
        answer = error_answer(error.code or 500, reason, error.description or error.name)
        for name, value in error.get_headers():
            if name not in ("Content-Type", "Content-Length"):
                answer.headers[name] = value
        return answer

    @app.errorhandler(Exception)
    def defect(error: Exception) -> Response:
        log.error("SEF: a request failed", exc_info=error)
        return error_answer(500, "internal_error", "SEF failed on this request; it was logged.")
