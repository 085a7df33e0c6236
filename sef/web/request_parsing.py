"""Read the bodies, query strings and headers of requests."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from flask import Blueprint, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.routing import PathConverter

from sef.errors import Refused
from sef.parsing import (
    MAX_COUNT,
    parse_dry_run,
    parse_identifier,
    parse_instant,
    parse_json,
    parse_object,
)
from sef.prices.parse import Line, lines
from sef.terms import INSTANCE_ID_LENGTH, POOL_ID_LENGTH

MAX_BATCH = 10_000
"""Maximum number of reports in a batch; NDJSON has no limit."""

MAX_BODY = 8 * 1024 * 1024
"""Maximum length of a body, in bytes; NDJSON has no limit."""

MAX_PAGE = 10_000
"""Maximum number of entries on a page."""

NDJSON = {"application/x-ndjson", "application/ndjson", "application/jsonl"}
"""Content types of NDJSON."""

CHUNK_BYTES = 64 * 1024
"""Number of bytes of NDJSON that are read at once."""

LAUNCH_TEMPLATE_LENGTH = 255
"""Maximum length of a launch template's id or name, in characters."""

_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')  # a string of RFC 9651


class AgentIdConverter(PathConverter):
    """Match an agent id in a path; an id may contain slashes."""

    regex = ".+?"
    part_isolating = False


def json_body() -> Any:
    """Return the body parsed as JSON, with exact numbers. The content type is ignored.

    Raises:
        Refused: `invalid_json`, or `body_cut_off`.
        RequestEntityTooLarge: the body is larger than `MAX_BODY`.
    """
    body = request.get_data(cache=False)
    if len(body) >= MAX_BODY:
        raise RequestEntityTooLarge  # Werkzeug cuts a chunked body silently at the limit
    _reject_if_cut_off(len(body))
    return parse_json(body)


def is_ndjson() -> bool:
    """Return True if the content type is one of NDJSON."""
    return request.mimetype in NDJSON


def body_lines() -> Iterator[Line]:
    """Yield the lines of a body of any size, as they arrive.

    Raises:
        Refused: `body_cut_off`, instead of an incomplete last line.
    """
    request.max_content_length = sys.maxsize  # None would be the application's limit
    return lines(_chunks())


def batch_body() -> list[Any]:
    """Return the reports of a batch.

    Raises:
        Refused: `invalid_body`, or `batch_too_large`.
    """
    reports = parse_object(json_body()).get("reports")
    if not isinstance(reports, list):
        raise Refused("invalid_body", 'The body must be {"reports": [...]}.')
    if len(reports) > MAX_BATCH:
        raise Refused(
            "batch_too_large",
            f"A batch holds at most {MAX_BATCH} reports. Split it, or send NDJSON.",
        )
    return reports


def agent_body() -> Mapping[str, Any]:
    """Return the fields of an agent that the request sets; a value of None clears the field.

    Raises:
        Refused: a field is unknown, or its value is malformed.
    """
    lengths = {
        "instance_id": INSTANCE_ID_LENGTH,
        "pool_id": POOL_ID_LENGTH,
        "launch_template": LAUNCH_TEMPLATE_LENGTH,
    }
    fields = parse_object(json_body())
    known = [*lengths, "drill_interval", "cutover"]
    unknown = next((name for name in fields if name not in known), None)
    if unknown is not None:
        raise Refused("unknown_field", f"Unknown field {unknown}. Allowed: {', '.join(known)}.")
    changes: dict[str, Any] = {
        name: parse_identifier(fields[name], name, length)
        for name, length in lengths.items()
        if fields.get(name) is not None
    }
    # The façade parses the others, since a program may also call it in process.
    changes |= {name: fields[name] for name in ("drill_interval", "cutover") if name in fields}
    return dict.fromkeys(fields) | changes


def adoption_body() -> Mapping[str, Any]:
    """Return the fields of an adoption; the façade parses their values.

    Raises:
        Refused: a field is unknown.
    """
    fields = parse_object(json_body())
    unknown = next((name for name in fields if name not in ("instance_id", "role")), None)
    if unknown is not None:
        raise Refused("unknown_field", f"Unknown field {unknown}. Allowed: instance_id, role.")
    return {"instance_id": None, **fields}


def idempotency_key() -> str | None:
    """Return the Idempotency-Key header, without the quotes that its IETF draft demands."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    quoted = _QUOTED.fullmatch(key.strip())
    return re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else key.strip()


def dry_run_field() -> bool:
    """Return `dry_run` of an optional body that has no other field."""
    if not request.get_data(cache=True):
        return False
    fields = parse_object(json_body())
    for name in fields:
        if name != "dry_run":
            raise Refused("unknown_field", f"Unknown field {name}. Allowed: dry_run.")
    return parse_dry_run(fields.get("dry_run"))


def signal_body() -> Any:
    """Return the body of a signal; reject a misspelt `dry_run`.

    Unknown fields are ignored, since an agent may send more than SEF reads. But SEF must not take a
    dry run with a misspelt field name for a real signal.
    """
    body = json_body()
    for name in body if isinstance(body, Mapping) else ():
        if name != "dry_run" and re.sub("[^a-z]", "", name.lower()) == "dryrun":
            raise Refused("unknown_field", f"Unknown field {name}. Use dry_run.")
    return body


def dry_run_argument() -> bool:
    """Return `dry_run` of the query string; reject any other parameter."""
    reject_unknown_params("dry_run")
    text = request.args.get("dry_run")
    return parse_dry_run({"true": True, "false": False}.get(text, text) if text else text)


def reject_unknown_params(*known: str) -> None:
    """Reject unknown query parameters of a call that changes something."""
    for name in request.args:
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise Refused(
                "unknown_argument", f"Unknown query parameter {name}. Allowed: {allowed}."
            )


def instant_argument(name: str) -> datetime | None:
    """Return a query parameter that is an instant: Unix seconds or ISO 8601."""
    text = request.args.get(name)
    if text is None:
        return None
    try:
        number = Decimal(text)
    except ArithmeticError:
        # In a query string an unescaped + arrives as a space.
        return parse_instant(text.replace(" ", "+"), name)
    return parse_instant(number, name)


def limit_argument(default: int) -> int:
    """Return the page size from the query string."""
    return _whole_number("limit", request.args.get("limit", str(default)), MAX_PAGE)


def next_cursor(page: Sequence[Mapping[str, Any]], limit: int) -> Any:
    """Return the cursor of the next page: the last id of a full page; None on the last page."""
    return page[-1]["id"] if len(page) == limit else None


def before_argument() -> int | None:
    """Return `before` of the query string: a page has only events older than this event."""
    text = request.args.get("before")
    return None if text is None else _whole_number("before", text, MAX_COUNT)


def register_agent_id_converter(routes: Blueprint) -> None:
    """Enable `<agent_id:...>` in the routes of a blueprint, on every app that registers it."""

    @routes.record_once
    def register(state: BlueprintSetupState) -> None:
        state.app.url_map.converters["agent_id"] = AgentIdConverter


def _chunks() -> Iterator[bytes]:
    received = 0
    while chunk := request.stream.read(CHUNK_BYTES):
        received += len(chunk)
        yield chunk
    _reject_if_cut_off(received)


def _reject_if_cut_off(received: int) -> None:
    # Granian sets wsgi.input_terminated, so Werkzeug does not compare the length itself.
    if request.content_length is not None and received < request.content_length:
        raise Refused("body_cut_off", "The body ended before its Content-Length.")


def _whole_number(name: str, text: str, largest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= largest):
        raise Refused(f"invalid_{name}", f"{name} must be a whole number from 1 to {largest}.")
    return int(text)
