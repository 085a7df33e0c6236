"""Build error answers: {"status": "error", "reason": ..., "message": "a sentence"}."""

import logging
import re

from flask import Blueprint, Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from sef.errors import Refused, SefError
from sef.web.request_parsing import MAX_BODY

log = logging.getLogger("sef")

RETRY_AFTER_SECONDS = "2"
"""Value of Retry-After in an answer with status 503."""


def error_answer(status: int, reason: str, message: str) -> Response:
    """Build an error answer; a 503 tells the client when to retry."""
    answer = jsonify(status="error", reason=reason, message=message)
    answer.status_code = status
    if status == 503:
        answer.headers["Retry-After"] = RETRY_AFTER_SECONDS
    return answer


def register_error_handlers(routes: Blueprint | Flask) -> None:
    """Answer SEF's own errors. On a blueprint, the other routes of the app are not affected."""

    @routes.errorhandler(Refused)
    def handle_bad_input(error: Refused) -> Response:
        return error_answer(400, error.reason, error.message)

    @routes.errorhandler(SefError)
    def handle_sef_error(error: SefError) -> Response:
        return error_answer(error.status, error.reason, error.message)


def register_fallback_handlers(app: Flask) -> None:
    """Answer unknown paths, wrong methods, too large bodies, and unexpected errors."""

    @app.errorhandler(NotFound)
    def handle_not_found(error: NotFound) -> Response:
        hint = "See docs/api.md for the endpoints."
        if request.path.endswith("/"):
            hint = f"Try it without the trailing slash: {request.path.rstrip('/')}"
        return error_answer(404, "not_found", f"Path not found. {hint}")

    @app.errorhandler(MethodNotAllowed)
    def handle_wrong_method(error: MethodNotAllowed) -> Response:
        # An agent id may contain slashes, so the route PUT /api/agents/<id> matches every path
        # below /api/agents/. For an unknown path, "PUT is allowed" would mislead: answer 404.
        if set(error.valid_methods or ()) == {"PUT", "OPTIONS"}:
            if "/" in request.path.removeprefix("/api/agents/"):
                return handle_not_found(NotFound())
            error.description = (
                f"Use PUT to change this agent, or GET {request.path}/sef-status to read it."
            )
        return handle_http_error(error)

    @app.errorhandler(RequestEntityTooLarge)
    def handle_too_large(error: RequestEntityTooLarge) -> Response:
        error.description = (
            f"The body is larger than {MAX_BODY // 2**20} MiB. A batch as NDJSON has no limit."
        )
        return handle_http_error(error)

    @app.errorhandler(HTTPException)
    def handle_http_error(error: HTTPException) -> Response:
        reason = re.sub(r"[^a-z]+", "_", error.name.lower())
        answer = error_answer(error.code or 500, reason, error.description or error.name)
        for name, value in error.get_headers():
            if name not in ("Content-Type", "Content-Length"):
                answer.headers[name] = value
        return answer

    @app.errorhandler(Exception)
    def handle_unexpected(error: Exception) -> Response:
        log.error("SEF: unexpected error in a request", exc_info=error)
        return error_answer(
            500, "internal_error", "Unexpected error in SEF. The log has the details."
        )
