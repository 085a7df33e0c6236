"""What reports and signals must look like to be taken, and why they are refused."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, NoReturn

from sef.core.pricing import PRICE_STEP, Observation, Source

AGENT_ID_LENGTH = 64
POOL_ID_LENGTH = 128
INSTANCE_ID_LENGTH = 64
IDEMPOTENCY_KEY_LENGTH = 255
MAX_PRICE = Decimal(1000)
EARLIEST = datetime(2006, 1, 1, tzinfo=UTC)
"""EC2 opened in 2006: no price is older."""
CLOCK_SKEW = timedelta(minutes=5)
BELIEVED_AHEAD = timedelta(hours=1)
"""What a signal says of times later than this is left out; AWS gives two minutes."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000 = Decimal(253402300800)
_IDENTIFIER = re.compile(r"[A-Za-z0-9._:/@-]+")
_PRINTABLE = re.compile(r"[ -~]+")


class Refused(ValueError):
    """Input that is not taken. `reason` is for programs, `message` is a sentence for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Report:
    """One price, as one agent reports it."""

    agent_id: str
    pool_id: str
    observation: Observation
    instance_id: str | None = None

    @property
    def series(self) -> tuple[str, str]:
        return (self.agent_id, self.pool_id)


class SignalType(StrEnum):
    REBALANCE = "rebalance-recommendation"
    TERMINATION = "termination-notice"
    LOSS = "unannounced-loss"  # found out by SEF itself, never received


ANNOUNCED = (SignalType.REBALANCE, SignalType.TERMINATION)


@dataclass(frozen=True, slots=True)
class Signal:
    """What AWS announced: `signalled_at` is its own time, `terminates_at` the announced end."""

    type: SignalType
    signalled_at: datetime
    terminates_at: datetime | None = None
    instance_id: str | None = None


def parse_report(agent_id: object, payload: object, now: datetime) -> Report:
    """Read a pricing report.

    Raises:
        Refused: with the reason, when any part of it is missing or not believable.
    """
    fields = parse_object(payload)
    agent = parse_agent_id(agent_id)
    price = _price(_required(fields, "spot_price"))
    if fields.get("pool_id") in (None, ""):
        raise Refused("missing_pool_id", "pool_id is required and cannot be empty.")
    pool = parse_identifier(fields["pool_id"], "pool_id", POOL_ID_LENGTH)
    at = parse_instant(_required(fields, "timestamp"), "timestamp")
    if at < EARLIEST:
        raise Refused("timestamp_too_old", "timestamp lies before 2006, when EC2 opened.")
    if at > now + CLOCK_SKEW:
        raise Refused(
            "timestamp_in_future",
            "timestamp lies more than 5 minutes ahead of the clock.",
        )
    is_replica = fields.get("is_replica", False)
    if not isinstance(is_replica, bool):
        raise Refused("invalid_is_replica", "is_replica must be true or false.")
    source = Source.REPLICA if is_replica else Source.PRIMARY
    return Report(agent, pool, Observation(source, at, price), _instance(fields))


def parse_signal(payload: object, now: datetime) -> Signal:
    """Read an interruption signal.

    Raises:
        Refused: `unknown_signal_type`, or the reason for which another field is not believable.
    """
    fields = parse_object(payload)
    named = fields.get("signal_type")
    if not isinstance(named, str) or named not in ANNOUNCED:
        known = " or ".join(ANNOUNCED)
        raise Refused("unknown_signal_type", f"signal_type must be {known}.")
    signalled_at = parse_instant(_required(fields, "timestamp"), "timestamp")
    announced = fields.get("termination_time")
    terminates_at = None if announced is None else parse_instant(announced, "termination_time")
    # A wrong clock is no reason to let an instance die unprotected: no signal is refused for it.
    if signalled_at > now + BELIEVED_AHEAD:
        signalled_at = now
    if terminates_at is not None and terminates_at > now + BELIEVED_AHEAD:
        terminates_at = None
    return Signal(SignalType(named), signalled_at, terminates_at, _instance(fields))


def parse_dry_run(value: object) -> bool:
    """Whether a call is to say only what it would do; None is no."""
    if value is None or isinstance(value, bool):
        return bool(value)
    raise Refused("invalid_dry_run", "dry_run must be true or false.")


def parse_json(text: bytes, what: str = "body") -> Any:
    """JSON with exact numbers.

    Raises:
        Refused: `invalid_json`.
    """
    try:
        return _JSON.decode(text.decode(json.detect_encoding(text), "surrogatepass"))
    except (ValueError, RecursionError, ArithmeticError):
        raise Refused("invalid_json", f"The {what} must be JSON.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse_constant)


def parse_object(payload: object) -> Mapping[str, Any]:
    if not isinstance(payload, Mapping):
        raise Refused("invalid_body", "The body must be a JSON object.")
    return payload


def parse_agent_id(value: object) -> str:
    return parse_identifier(value, "agent_id", AGENT_ID_LENGTH)


def parse_idempotency_key(value: object) -> str | None:
    """Read an idempotency key; None is none."""
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
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value) or len(value) > length:
        raise Refused(
            f"invalid_{field}",
            f"{field} must be 1 to {length} characters of A-Z a-z 0-9 and . _ : / @ - only.",
        )
    return value


def parse_instant(value: object, field: str) -> datetime:
    """Epoch seconds, whole or fractional, or ISO 8601 with an offset, as UTC."""
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value)
            if at.tzinfo is None:
                raise Refused(f"invalid_{field}", f"{field} needs an offset, such as Z or +02:00.")
            return at.astimezone(UTC)
        seconds = _decimal(value)
        if seconds is not None and seconds >= _YEAR_10000 - 1:
            raise Refused(
                f"invalid_{field}", f"{field} is too large: seconds are expected, not milliseconds."
            )
        if seconds is not None and 0 <= seconds < _YEAR_10000 - 1:
            micros = (seconds * 1_000_000).to_integral_value(ROUND_HALF_EVEN)
            return _EPOCH + timedelta(microseconds=int(micros))
    except (ValueError, OverflowError) as error:
        if isinstance(error, Refused):
            raise
    raise Refused(f"invalid_{field}", f"{field} must be epoch seconds or ISO 8601 with an offset.")


def _price(value: object) -> Decimal:
    price = _decimal(value)
    if price is None:
        raise Refused("invalid_spot_price", "spot_price must be a finite JSON number.")
    if price > MAX_PRICE:
        raise Refused("spot_price_too_high", "spot_price is above 1000 dollars per hour.")
    if price > 0:
        price = price.quantize(PRICE_STEP, ROUND_HALF_EVEN)
    if price <= 0:
        raise Refused("spot_price_not_positive", "spot_price must be above zero.")
    return price


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _required(fields: Mapping[str, Any], name: str) -> object:
    if fields.get(name) is None:
        raise Refused(f"missing_{name}", f"{name} is required.")
    return fields[name]


def _instance(fields: Mapping[str, Any]) -> str | None:
    value = fields.get("instance_id")
    return None if value is None else parse_identifier(value, "instance_id", INSTANCE_ID_LENGTH)
