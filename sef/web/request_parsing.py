"""Reading bodies and query strings."""

import re
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from flask import Blueprint, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.routing import PathConverter

from sef.errors import Refused
from sef.parsing import parse_dry_run, parse_identifier, parse_instant, parse_json, parse_object
from sef.prices.parse import Line, lines
from sef.terms import INSTANCE_ID_LENGTH, POOL_ID_LENGTH

MAX_BATCH = 10_000
MAX_BODY = 8 * 1024 * 1024
MAX_PAGE = 10_000
NDJSON = {"application/x-ndjson", "application/ndjson", "application/jsonl"}
PIECE = 64 * 1024
LAUNCH_TEMPLATE_LENGTH = 255
LONGEST_DRILL = 31_536_000
"""Seconds: a year."""
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')  # a string of RFC 9651


def json_body() -> Any:
    """The body as JSON, with exact numbers, whatever its content type says.

    Raises:
        Refused: `invalid_json`, or `body_cut_off`.
    """
    body = request.get_data(cache=False)
    if len(body) >= MAX_BODY:
        raise RequestEntityTooLarge  # in chunks, it is cut at the limit without a word
    _refuse_if_cut_off(len(body))
    return parse_json(body)


def is_ndjson() -> bool:
    """Whether the body is said to be NDJSON."""
    return request.mimetype in NDJSON


def body_lines() -> Iterator[Line]:
    """The lines of a body of any size, as they arrive.

    Raises:
        Refused: `body_cut_off`, in the place of the line that is not whole.
    """
    request.max_content_length = sys.maxsize  # None would be the application's limit
    return lines(_pieces())


def _pieces() -> Iterator[bytes]:
    received = 0
    while piece := request.stream.read(PIECE):
        received += len(piece)
        yield piece
    _refuse_if_cut_off(received)


def _refuse_if_cut_off(received: int) -> None:
    # Under Granian, which says that it ends bodies itself, Werkzeug leaves this to us.
    if request.content_length is not None and received < request.content_length:
        raise Refused("body_cut_off", "The body ended before its Content-Length.")


def batch_body() -> list[Any]:
    """Raises Refused: `invalid_body`, or `batch_too_large`."""
    reports = parse_object(json_body()).get("reports")
    if not isinstance(reports, list):
        raise Refused("invalid_body", 'The body must be {"reports": [...]}.')
    if len(reports) > MAX_BATCH:
        raise Refused("batch_too_large", f"A batch has at most {MAX_BATCH} reports.")
    return reports


def agent_body() -> Mapping[str, Any]:
    """The fields of an agent that can be set; null clears one.

    Raises:
        Refused: a field is unknown or not well-formed.
    """
    lengths = {
        "instance_id": INSTANCE_ID_LENGTH,
        "pool_id": POOL_ID_LENGTH,
        "launch_template": LAUNCH_TEMPLATE_LENGTH,
    }
    fields = parse_object(json_body())
    known = [*lengths, "drill_interval", "cutover"]
    if any(name not in known for name in fields):
        raise Refused(
            "unknown_field", f"An agent has the fields {', '.join(known)}; one given is another."
        )
    changes: dict[str, Any] = {
        name: parse_identifier(fields[name], name, length)
        for name, length in lengths.items()
        if fields.get(name) is not None
    }
    if fields.get("drill_interval") is not None:
        changes["drill_interval"] = _drill_interval(fields["drill_interval"])
    # The façade reads the targets, also those that it is given in process.
    if fields.get("cutover") is not None:
        changes["cutover"] = fields["cutover"]
    return dict.fromkeys(fields) | changes


def _drill_interval(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 600 <= value <= LONGEST_DRILL:
        raise Refused(
            "invalid_drill_interval",
            f"drill_interval must be a whole number of seconds from 600 to {LONGEST_DRILL}.",
        )
    return value


def idempotency_key() -> str | None:
    """The header's key: a string in quotes, as the draft has it, or without them."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    quoted = _QUOTED.fullmatch(key.strip())
    return re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else key.strip()


def dry_run_field() -> bool:
    """`dry_run` of a body that may be left out and has nothing else."""
    if not request.get_data(cache=True):
        return False
    fields = parse_object(json_body())
    for name in fields:
        if name != "dry_run":
            raise Refused("unknown_field", f"A switch has the field dry_run; {name} is another.")
    return parse_dry_run(fields.get("dry_run"))


def signal_body() -> Any:
    """Return the body of a signal; reject a misspelt `dry_run`.

    Unknown fields are ignored, since an agent may send more than SEF reads. But a misspelt dry run
    must not be run as a real signal.
    """
    body = json_body()
    for name in body if isinstance(body, Mapping) else ():
        if name != "dry_run" and re.sub("[^a-z]", "", name.lower()) == "dryrun":
            raise Refused("unknown_field", f"{name} is no field of a signal; dry_run is.")
    return body


def dry_run_argument() -> bool:
    reject_unknown_params("dry_run")
    text = request.args.get("dry_run")
    return parse_dry_run({"true": True, "false": False}.get(text, text) if text else text)


def reject_unknown_params(*known: str) -> None:
    """Refuse a call that has an effect and says more than is understood."""
    for name in request.args:
        if name not in known:
            but = f"; it has {', '.join(known)}" if known else ""
            raise Refused("unknown_argument", f"This call has no argument {name}{but}.")


def instant_argument(name: str) -> datetime | None:
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
    return _whole_number("limit", request.args.get("limit", str(default)), MAX_PAGE)


def before_argument() -> int | None:
    text = request.args.get("before")
    return None if text is None else _whole_number("before", text, 2**63 - 1)


def _whole_number(name: str, text: str, largest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= largest):
        raise Refused(f"invalid_{name}", f"{name} must be a whole number from 1 to {largest}.")
    return int(text)


class AgentIdConverter(PathConverter):
    regex = ".+?"
    part_isolating = False


def register_agent_id_converter(routes: Blueprint) -> None:
    """Let the rules of a blueprint say `<agent_id:...>`, on whatever app it is registered."""

    @routes.record_once
    def register(state: BlueprintSetupState) -> None:
        state.app.url_map.converters["agent_id"] = AgentIdConverter
