"""Parse JSON, ids, times and signals, or reject them with a reason."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, NoReturn

from sef.errors import Refused
from sef.terms import (
    AGENT_ID_LENGTH,
    ANNOUNCED,
    IDEMPOTENCY_KEY_LENGTH,
    INSTANCE_ID_LENGTH,
    LONGEST_SPAN,
    Signal,
    SignalType,
)

MAX_AHEAD = timedelta(hours=1)
"""Times of a signal that are further in the future than this are ignored.

AWS announces a termination two minutes ahead, so a later time comes from a wrong clock.
"""

MIN_DRILL_INTERVAL = 600
"""Minimum time between two drills, in seconds."""

MAX_COUNT = 2**63 - 1
"""Maximum number of rows, and maximum id of an event: the largest integer of the databases."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000 = Decimal(253402300800)
_IDENTIFIER = re.compile(r"[A-Za-z0-9._:/@-]+")
_PRINTABLE = re.compile(r"[ -~]+")


def parse_signal(payload: object, now: datetime, *, needs_time: bool = True) -> Signal:
    """Parse an interruption signal.

    Args:
        needs_time: refuse a signal without `timestamp`. Otherwise it counts from its arrival.

    Raises:
        Refused: `unknown_signal_type`, or the reason of another field.
    """
    fields = parse_object(payload)
    signal_type = fields.get("signal_type")
    if not isinstance(signal_type, str) or signal_type not in ANNOUNCED:
        known = " or ".join(ANNOUNCED)
        raise Refused("unknown_signal_type", f"signal_type must be {known}.")
    is_dated = needs_time or "timestamp" in fields
    signalled_at = now
    if is_dated:
        signalled_at = parse_instant(required_field(fields, "timestamp"), "timestamp")
    announced = fields.get("termination_time")
    terminates_at = None if announced is None else parse_instant(announced, "termination_time")
    # A time too far in the future comes from a sender with a wrong clock. SEF replaces the time: if
    # it rejected the signal, it would not protect the instance.
    if signalled_at > now + MAX_AHEAD:
        signalled_at, is_dated = now, False
    if terminates_at is not None and terminates_at > now + MAX_AHEAD:
        terminates_at = None
    # Before 1970 too, and a database may not hold it. A repeat has to keep the time of the first.
    signalled_at = max(signalled_at, _EPOCH)
    if terminates_at is not None:
        terminates_at = max(terminates_at, _EPOCH)
    instance_id = parse_instance_id(fields)
    return Signal(SignalType(signal_type), signalled_at, terminates_at, instance_id, is_dated)


def parse_dry_run(value: object) -> bool:
    """Return True if the call is a dry run. A value of None means that it is not.

    Raises:
        Refused: `invalid_dry_run`.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    raise Refused("invalid_dry_run", "dry_run must be true or false.")


def parse_json(text: bytes, name: str = "body") -> Any:
    """Parse JSON, with fractional numbers as Decimal.

    Args:
        name: name of the text in the error message.

    Raises:
        Refused: `invalid_json`.
    """
    try:
        return _JSON.decode(text.decode(json.detect_encoding(text), "surrogatepass"))
    except (ValueError, RecursionError, ArithmeticError):
        raise Refused("invalid_json", f"The {name} must be JSON.") from None


def parse_object(payload: object) -> Mapping[str, Any]:
    """Return the payload if it is an object.

    Raises:
        Refused: `invalid_body`.
    """
    if not isinstance(payload, Mapping):
        raise Refused("invalid_body", "The body must be a JSON object.")
    return payload


def parse_agent_id(value: object) -> str:
    """Return the agent id.

    Raises:
        Refused: `invalid_agent_id`.
    """
    return parse_identifier(value, "agent_id", AGENT_ID_LENGTH)


def parse_idempotency_key(value: object) -> str | None:
    """Return the idempotency key, or None if there is none.

    Raises:
        Refused: `invalid_idempotency_key`.
    """
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or not _PRINTABLE.fullmatch(value)
        or len(value) > IDEMPOTENCY_KEY_LENGTH
    ):
        raise Refused(
            "invalid_idempotency_key",
            f"Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_LENGTH} printable ASCII characters.",
        )
    return value


def parse_identifier(value: object, field: str, length: int) -> str:
    """Return an id of at most `length` characters.

    Raises:
        Refused: `invalid_` and the name of the field.
    """
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value) or len(value) > length:
        raise Refused(
            f"invalid_{field}",
            f"{field} must be 1 to {length} characters: A-Z, a-z, 0-9 and . _ : / @ - are allowed.",
        )
    return value


def parse_instant(value: object, field: str) -> datetime:
    """Parse epoch seconds, whole or fractional, or ISO 8601 with an offset; return UTC.

    Raises:
        Refused: `invalid_` and the name of the field.
    """
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            if at.tzinfo is None:
                raise Refused(
                    f"invalid_{field}", f"{field} must have an offset, such as Z or +02:00."
                )
            return at.astimezone(UTC)
        seconds = parse_decimal(value)
        if seconds is not None and seconds >= _YEAR_10000 - 1:
            raise Refused(
                f"invalid_{field}", f"{field} is too large: use seconds instead of milliseconds."
            )
        if seconds is not None and 0 <= seconds < _YEAR_10000 - 1:
            micros = (seconds * 1_000_000).to_integral_value(ROUND_HALF_EVEN)
            return _EPOCH + timedelta(microseconds=int(micros))
    except (ValueError, OverflowError) as error:
        if isinstance(error, Refused):
            raise
    raise Refused(f"invalid_{field}", f"{field} must be epoch seconds or ISO 8601 with an offset.")


def parse_bound(value: object, field: str) -> datetime | None:
    """Return an end of a time span in UTC, or None if it is open; 1970 for an earlier time.

    The databases compare no time before the year 1000 correctly, and no price is older than 1970.

    Raises:
        Refused: `invalid_` and the name of the field.
    """
    if value is None:
        return None
    try:
        if isinstance(value, datetime):
            return max(value.astimezone(UTC), _EPOCH)
    except (ValueError, OverflowError):
        pass  # in UTC its year is 0 or 10000
    raise Refused(f"invalid_{field}", f"{field} must be a datetime of the years 1 to 9999 in UTC.")


def parse_count(value: object, field: str) -> int:
    """Return a whole number from 0, such as the size of a page; at most `MAX_COUNT`.

    Raises:
        Refused: `invalid_` and the name of the field.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Refused(f"invalid_{field}", f"{field} must be a whole number from 0.")
    return min(value, MAX_COUNT)


def parse_drill_interval(value: object) -> int:
    """Return the seconds between two drills.

    Raises:
        Refused: `invalid_drill_interval`.
    """
    interval = value if isinstance(value, int) and not isinstance(value, bool) else 0
    if MIN_DRILL_INTERVAL <= interval <= LONGEST_SPAN:
        return interval
    raise Refused(
        "invalid_drill_interval",
        "drill_interval must be a whole number of seconds "
        f"from {MIN_DRILL_INTERVAL} to {LONGEST_SPAN}.",
    )


def parse_decimal(value: object) -> Decimal | None:
    """Return a number exactly as it is written, or None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def required_field(fields: Mapping[str, Any], name: str) -> object:
    """Return a field that must be present and not null.

    Raises:
        Refused: `missing_` and the name of the field.
    """
    if fields.get(name) is None:
        raise Refused(f"missing_{name}", f"{name} is required.")
    return fields[name]


def parse_instance_id(fields: Mapping[str, Any]) -> str | None:
    """Return the field `instance_id`, or None if it is missing or null.

    Raises:
        Refused: `invalid_instance_id`.
    """
    value = fields.get("instance_id")
    return None if value is None else parse_identifier(value, "instance_id", INSTANCE_ID_LENGTH)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_float=Decimal, parse_constant=_reject_constant)
"""Decoder that reads fractional numbers as Decimal, and rejects NaN and Infinity."""
