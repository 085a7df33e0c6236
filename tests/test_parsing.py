"""Valid and invalid reports and signals, as tables."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sef.errors import Refused
from sef.parsing import (
    parse_agent_id,
    parse_identifier,
    parse_instant,
    parse_json,
    parse_signal,
)
from sef.prices.parse import Report, parse_report
from sef.prices.series import Observation
from sef.terms import ANNOUNCED, Signal, SignalType, Source

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)
EPOCH_NOW = int(NOW.timestamp())
MICRO = timedelta(microseconds=1)

NAN, INFINITY = float("nan"), float("inf")
REPORT = '{"spot_price": 0.05, "pool_id": "p", "timestamp": 1637500000}'


def report(agent_id="a", **fields):
    payload = {"spot_price": 0.05, "pool_id": "m5.large.us-east-1a", "timestamp": EPOCH_NOW}
    payload |= fields
    return parse_report(agent_id, {k: v for k, v in payload.items() if v is not ...}, NOW)


def signal(**fields):
    payload = {"signal_type": "termination-notice", "timestamp": EPOCH_NOW} | fields
    return parse_signal({k: v for k, v in payload.items() if v is not ...}, NOW)


def read_report(body):
    """Read a report from the bytes of a request."""
    return parse_report("a", parse_json(body), NOW)


def refusal(parse, *arguments, **fields):
    with pytest.raises(Refused) as caught:
        parse(*arguments, **fields)
    assert str(caught.value) == caught.value.message
    assert re.fullmatch(r"[A-Z]?[^\n]+[^\s]", caught.value.message)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", caught.value.reason)
    return caught.value.reason


def test_a_report_is_read_with_all_fields():
    assert report("agent-1", instance_id="i-0abc", is_replica=True) == Report(
        "agent-1",
        "m5.large.us-east-1a",
        Observation(Source.REPLICA, NOW, Decimal("0.05")),
        "i-0abc",
    )


def test_a_report_is_of_the_primary_by_default():
    assert report().observation.source is Source.PRIMARY
    assert report(is_replica=False).observation.source is Source.PRIMARY
    assert report().instance_id is None


def test_unknown_fields_are_ignored():
    assert report(agent_id="a", region="us-east-1") == report()


@pytest.mark.parametrize("payload", [None, [], "x", 1, True, [{"spot_price": 1}], b"{}"], ids=repr)
def test_a_body_must_be_an_object(payload):
    assert refusal(parse_report, "a", payload, NOW) == "invalid_body"
    assert refusal(parse_signal, payload, NOW) == "invalid_body"


# Bodies


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "invalid_json", id="empty"),
        pytest.param(b" \r\n", "invalid_json", id="blank"),
        pytest.param(b"spot_price=0.05&pool_id=p", "invalid_json", id="a form"),
        pytest.param(b"<report/>", "invalid_json", id="XML"),
        pytest.param(REPORT[:-1].encode(), "invalid_json", id="cut off"),
        pytest.param((REPORT * 2).encode(), "invalid_json", id="twice"),
        pytest.param(REPORT.replace('"', "'").encode(), "invalid_json", id="single quotes"),
        pytest.param(b"\xff\xfe\xfd", "invalid_json", id="not text"),
        pytest.param(b'{"pool_id": "\xc3\x28"}', "invalid_json", id="not UTF-8"),
        pytest.param(b'{"pool_id": "a\nb"}', "invalid_json", id="a bare line's end in text"),
        pytest.param(b"[" * 100_000, "invalid_json", id="100,000 open brackets"),
        pytest.param(
            b"[" * 100_000 + b"]" * 100_000, "invalid_json", id="100,000 brackets, closed again"
        ),
        pytest.param(
            b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "invalid_json", id="100,000 objects"
        ),
        pytest.param(b"NaN", "invalid_json", id="NaN"),
        pytest.param(b'{"spot_price": NaN}', "invalid_json", id="a price of NaN"),
        pytest.param(b'{"spot_price": Infinity}', "invalid_json", id="a price of Infinity"),
        pytest.param(b'{"timestamp": -Infinity}', "invalid_json", id="a time of -Infinity"),
        pytest.param(
            b'{"spot_price": ' + b"9" * 5000 + b"}", "invalid_json", id="a number of 5,000 digits"
        ),
        pytest.param(b"[]", "invalid_body", id="a list"),
        pytest.param(b"[" + REPORT.encode() + b"]", "invalid_body", id="a list of a report"),
        pytest.param(b"null", "invalid_body", id="null"),
        pytest.param(b"0.05", "invalid_body", id="a number"),
        pytest.param(b'"report"', "invalid_body", id="text"),
        pytest.param(b"true", "invalid_body", id="true"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_rejected(body, reason):
    assert refusal(read_report, body) == reason


@pytest.mark.parametrize(
    ("field", "token", "reason"),
    [
        ("spot_price", "1e309", "spot_price_too_high"),
        ("spot_price", "-1e309", "spot_price_not_positive"),
        ("spot_price", "1e-309", "spot_price_not_positive"),
        ("spot_price", "1e999999999", "spot_price_too_high"),
        ("spot_price", "1e99999999999999999999", "invalid_json"),
        ("spot_price", "1e-999999999", "spot_price_not_positive"),
        ("spot_price", "-0", "spot_price_not_positive"),
        ("spot_price", "9" * 4000, "spot_price_too_high"),
        ("spot_price", "0." + "0" * 5000 + "1", "spot_price_not_positive"),
        ("spot_price", "1000." + "0" * 5000 + "1", "spot_price_too_high"),
        ("spot_price", '"NaN"', "invalid_spot_price"),
        ("timestamp", "1e309", "invalid_timestamp"),
        ("timestamp", "1e999999999", "invalid_timestamp"),
        ("timestamp", "9" * 4000, "invalid_timestamp"),
        ("timestamp", "253402300799", "invalid_timestamp"),
        ("timestamp", "253402300798.9999999", "timestamp_in_future"),
        ("timestamp", '"9999-12-31T23:59:59Z"', "timestamp_in_future"),
        ("timestamp", '"9999-12-31T23:59:59.999999+00:00"', "timestamp_in_future"),
        ("timestamp", '"9999-12-31T23:59:59-14:00"', "invalid_timestamp"),
        ("timestamp", '"0001-01-01T00:00:00+14:00"', "invalid_timestamp"),
        ("timestamp", '"0001-01-01T00:00:00Z"', "timestamp_too_old"),
        ("timestamp", '"2021-11-21T13:06:40Z\\r\\n"', "invalid_timestamp"),
        ("timestamp", '"\\ud800"', "invalid_timestamp"),
        ("pool_id", '"\\ud800"', "invalid_pool_id"),
        ("pool_id", '"p\\r\\nSet-Cookie: a=b"', "invalid_pool_id"),
        ("pool_id", '"p\\u0000"', "invalid_pool_id"),
        ("pool_id", '"\\u202epool"', "invalid_pool_id"),
        ("instance_id", '"i-1\\r\\n"', "invalid_instance_id"),
        ("instance_id", '"\\udfff"', "invalid_instance_id"),
        ("is_replica", "NaN", "invalid_json"),
    ],
    ids=lambda value: value if len(value) < 40 else f"{value[:12]}... {len(value)} long",
)
def test_a_json_value_out_of_range_is_rejected(field, token, reason):
    tokens = {"spot_price": "0.05", "pool_id": '"p"', "timestamp": str(EPOCH_NOW)} | {field: token}
    body = "{" + ", ".join(f'"{name}": {value}' for name, value in tokens.items()) + "}"
    assert refusal(read_report, body.encode()) == reason


def test_a_surrogate_in_utf8_is_rejected():
    body = REPORT.encode().replace(b'"p"', b'"\xed\xa0\x80"')
    assert refusal(read_report, body) == "invalid_pool_id"


# Prices


@pytest.mark.parametrize(
    ("value", "price"),
    [
        (0.0456, "0.0456"),
        (1, "1"),
        (1000, "1000"),
        (1000.0, "1000"),
        (999.99999999, "999.99999999"),
        (0.00000001, "0.00000001"),
        (0.1 + 0.2, "0.3"),
        # A float is what it is written as, not its binary neighbour.
        (1.5e-08, "0.00000002"),
        (1.05e-07, "0.0000001"),
        (Decimal("0.0456"), "0.0456"),
        # Halves are rounded to the even digit.
        (Decimal("0.123456785"), "0.12345678"),
        (Decimal("0.123456775"), "0.12345678"),
        (Decimal("0.1234567850000001"), "0.12345679"),
        (0.123456785, "0.12345678"),
        (0.123456775, "0.12345678"),
        (Decimal("0.000000015"), "0.00000002"),
        (Decimal("0.000000005000000001"), "0.00000001"),
        (Decimal("999.999999999"), "1000"),
        (Decimal("1E+2"), "100"),
        (Decimal("0." + "1" * 60), "0.11111111"),
    ],
    ids=repr,
)
def test_a_price_is_rounded_to_eight_decimals(value, price):
    taken = report(spot_price=value).observation.price
    assert taken == Decimal(price)
    assert taken.as_tuple().exponent == -8


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (..., "missing_spot_price"),
        (None, "missing_spot_price"),
        (True, "invalid_spot_price"),
        (False, "invalid_spot_price"),
        ("0.05", "invalid_spot_price"),
        ("", "invalid_spot_price"),
        ([0.05], "invalid_spot_price"),
        ({}, "invalid_spot_price"),
        (1j, "invalid_spot_price"),
        (NAN, "invalid_spot_price"),
        (INFINITY, "invalid_spot_price"),
        (-INFINITY, "invalid_spot_price"),
        (1e309, "invalid_spot_price"),
        (Decimal("NaN"), "invalid_spot_price"),
        (Decimal("sNaN"), "invalid_spot_price"),
        (Decimal("Infinity"), "invalid_spot_price"),
        (Decimal("-Infinity"), "invalid_spot_price"),
        (0, "spot_price_not_positive"),
        (0.0, "spot_price_not_positive"),
        (-0.0, "spot_price_not_positive"),
        (-1, "spot_price_not_positive"),
        (-1e-9, "spot_price_not_positive"),
        (Decimal("-1E+9999"), "spot_price_not_positive"),
        (1e-9, "spot_price_not_positive"),
        (5e-324, "spot_price_not_positive"),
        (Decimal("0.000000005"), "spot_price_not_positive"),
        (Decimal("1E-999999"), "spot_price_not_positive"),
        (Decimal("1000.00000001"), "spot_price_too_high"),
        (Decimal("1000.000000001"), "spot_price_too_high"),
        (1000.00000001, "spot_price_too_high"),
        (1001, "spot_price_too_high"),
        (1e308, "spot_price_too_high"),
        (Decimal("1E+999999"), "spot_price_too_high"),
        pytest.param(10**5000, "spot_price_too_high", id="10**5000"),
    ],
    ids=repr,
)
def test_an_invalid_price_is_rejected(value, reason):
    assert refusal(report, spot_price=value) == reason


# Identifiers

GOOD_IDS = ["a", "agent-1", "A.Z_9:/@-", "m5.large.us-east-1a", "-", "i-0123456789abcdef0"]
BAD_IDS = {
    "space": "a b",
    "leading-space": " a",
    "trailing-newline": "a\n",
    "crlf": "a\r\n",
    "crlf-inside": "a\r\nX: y",
    "tab": "a\tb",
    "nul": "a\0",
    "unicode-digit": "a\u0661",
    "full-width-letter": "\uff41",
    "accent": "caf\u00e9",
    "emoji": "\U0001f680",
    "surrogate": "\ud800",
    "quote": "a'b",
    "percent": "a%20b",
    "backslash": "a\\b",
    "markup": "<b>",
    "hash": "a#b",
    "number": 7,
    "bool": True,
    "list": ["a"],
    "object": {"a": 1},
    "bytes": b"a",
}


@pytest.mark.parametrize("value", GOOD_IDS)
def test_an_identifier_is_kept_unchanged(value):
    taken = report(value, pool_id=value, instance_id=value)
    assert (taken.agent_id, taken.pool_id, taken.instance_id) == (value, value, value)


@pytest.mark.parametrize("value", BAD_IDS.values(), ids=BAD_IDS)
def test_an_invalid_identifier_is_rejected(value):
    assert refusal(report, value) == "invalid_agent_id"
    assert refusal(report, pool_id=value) == "invalid_pool_id"
    assert refusal(report, instance_id=value) == "invalid_instance_id"
    assert refusal(signal, instance_id=value) == "invalid_instance_id"


def test_agent_and_instance_ids_have_at_most_64_characters_and_pools_128():
    fits = report("a" * 64, pool_id="p" * 128, instance_id="i" * 64)
    assert (len(fits.agent_id), len(fits.pool_id), len(fits.instance_id)) == (64, 128, 64)
    assert refusal(report, "a" * 65) == "invalid_agent_id"
    assert refusal(report, pool_id="p" * 129) == "invalid_pool_id"
    assert refusal(report, instance_id="i" * 65) == "invalid_instance_id"
    assert refusal(signal, instance_id="i" * 65) == "invalid_instance_id"


@pytest.mark.parametrize("value", ["", None], ids=repr)
def test_an_agent_id_cannot_be_empty(value):
    assert refusal(report, value) == "invalid_agent_id"
    assert refusal(parse_agent_id, value) == "invalid_agent_id"


@pytest.mark.parametrize("value", ["", None, ...], ids=repr)
def test_a_pool_is_required(value):
    assert refusal(report, pool_id=value) == "missing_pool_id"


def test_an_instance_is_optional_but_not_empty():
    assert report(instance_id=None).instance_id is None
    assert refusal(report, instance_id="") == "invalid_instance_id"


@given(st.text(max_size=70))
def test_an_identifier_has_only_the_allowed_characters(value):
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/@-")
    if 1 <= len(value) <= 64 and set(value) <= allowed:
        assert parse_identifier(value, "agent_id", 64) == value
    else:
        assert refusal(parse_identifier, value, "agent_id", 64) == "invalid_agent_id"


# Times


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "1970-01-01T00:00:00"),
        (EPOCH_NOW, "2024-03-01T12:00:00"),
        (float(EPOCH_NOW), "2024-03-01T12:00:00"),
        (1709294400.123456, "2024-03-01T12:00:00.123456"),
        (1709294400.5, "2024-03-01T12:00:00.500000"),
        (Decimal("1709294400.1234565"), "2024-03-01T12:00:00.123456"),
        (Decimal("1709294400.1234575"), "2024-03-01T12:00:00.123458"),
        (Decimal("1709294400.9999999"), "2024-03-01T12:00:01"),
        (253402300798, "9999-12-31T23:59:58"),
        ("2024-03-01T12:00:00Z", "2024-03-01T12:00:00"),
        ("2024-03-01T12:00:00+00:00", "2024-03-01T12:00:00"),
        ("2024-03-01T12:00:00-00:00", "2024-03-01T12:00:00"),
        ("2024-03-01T14:00:00+02:00", "2024-03-01T12:00:00"),
        ("2024-03-01T02:00:00.25-10:00", "2024-03-01T12:00:00.250000"),
        ("2024-03-01 12:00:00.123456Z", "2024-03-01T12:00:00.123456"),
        ("20240301T120000Z", "2024-03-01T12:00:00"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00"),
    ],
    ids=repr,
)
def test_a_time_is_read_as_utc(value, expected):
    taken = parse_instant(value, "timestamp")
    assert taken == datetime.fromisoformat(expected).replace(tzinfo=UTC)
    assert taken.tzinfo is UTC


@pytest.mark.parametrize(
    "value",
    [
        "2024-03-01T12:00:00",
        "2024-03-01",
        "1709294400",
        "now",
        "",
        " 2024-03-01T12:00:00Z",
        "2024-03-01T12:00:00Z\n",
        "2024-02-30T12:00:00Z",
        "2024-03-01T25:00:00Z",
        "2024-03-01T12:00:00+24:00",
        "\uff12\uff10\uff12\uff14-03-01T12:00:00Z",
        "\ud800",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "10000-01-01T00:00:00Z",
        EPOCH_NOW * 1000,
        EPOCH_NOW * 1_000_000,
        253402300800,
        253402300799.9999999,
        -1,
        -1e-9,
        1e300,
        NAN,
        INFINITY,
        -INFINITY,
        Decimal("NaN"),
        Decimal("sNaN"),
        True,
        [EPOCH_NOW],
        {"seconds": 1},
        NOW,
        pytest.param(10**5000, id="10**5000"),
    ],
    ids=ascii,
)
def test_an_invalid_time_is_rejected(value):
    assert refusal(parse_instant, value, "timestamp") == "invalid_timestamp"
    assert refusal(report, timestamp=value) == "invalid_timestamp"
    assert refusal(signal, timestamp=value) == "invalid_timestamp"
    assert refusal(signal, termination_time=value) == "invalid_termination_time"


@pytest.mark.parametrize("value", [None, ...], ids=repr)
def test_a_time_is_required(value):
    assert refusal(report, timestamp=value) == "missing_timestamp"
    assert refusal(signal, timestamp=value) == "missing_timestamp"


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        pytest.param(NOW + timedelta(minutes=5), None, id="exactly-5-minutes-ahead"),
        pytest.param(
            NOW + timedelta(minutes=5) + MICRO, "timestamp_in_future", id="a-microsecond-more"
        ),
        pytest.param(datetime(9999, 12, 31, tzinfo=UTC), "timestamp_in_future", id="year-9999"),
        pytest.param(NOW - timedelta(days=3650), None, id="a-backfill-of-ten-years"),
        pytest.param(datetime(2006, 1, 1, tzinfo=UTC), None, id="the-beginning-of-2006"),
        pytest.param(
            datetime(2006, 1, 1, tzinfo=UTC) - MICRO, "timestamp_too_old", id="just-before-2006"
        ),
        pytest.param(datetime(1, 1, 1, tzinfo=UTC), "timestamp_too_old", id="year-1"),
        pytest.param(datetime(1970, 1, 1, tzinfo=UTC), "timestamp_too_old", id="epoch"),
    ],
)
def test_a_report_is_neither_from_the_future_nor_from_before_ec2(moment, reason):
    if reason is None:
        assert report(timestamp=moment.isoformat()).observation.at == moment
    else:
        assert refusal(report, timestamp=moment.isoformat()) == reason


@pytest.mark.parametrize("value", [0, 1, "true", "false", "", None, [], {}], ids=repr)
def test_is_replica_must_be_a_boolean(value):
    assert refusal(report, is_replica=value) == "invalid_is_replica"


# Signals


def test_a_signal_is_read_with_all_fields():
    assert signal(termination_time="2024-03-01T12:02:00Z", instance_id="i-0abc") == Signal(
        SignalType.TERMINATION, NOW, NOW + timedelta(minutes=2), "i-0abc"
    )
    assert signal(signal_type="rebalance-recommendation") == Signal(SignalType.REBALANCE, NOW)
    assert signal(termination_time=None, instance_id=None) == Signal(SignalType.TERMINATION, NOW)


@pytest.mark.parametrize(
    "value",
    [
        ...,
        None,
        "",
        "TERMINATION",
        "unannounced-loss",
        "termination_notice",
        "termination-notice ",
        1,
        True,
        [],
        {},
    ],
    ids=repr,
)
def test_a_signal_must_be_of_a_known_type(value):
    assert refusal(signal, signal_type=value) == "unknown_signal_type"


@pytest.mark.parametrize("kind", ANNOUNCED)
def test_both_types_of_signal_are_accepted(kind):
    assert signal(signal_type=kind.value).type is kind


def test_a_signal_from_a_fast_clock_is_accepted_as_of_now():
    hour = NOW + timedelta(hours=1)
    assert signal(timestamp=hour.isoformat()).signalled_at == hour
    assert signal(timestamp=(hour + MICRO).isoformat()).signalled_at == NOW


def test_a_termination_time_more_than_an_hour_ahead_is_ignored():
    hour = NOW + timedelta(hours=1)
    assert signal(termination_time=hour.isoformat()).terminates_at == hour
    assert signal(termination_time=(hour + MICRO).isoformat()).terminates_at is None


def test_a_signal_of_any_age_is_accepted():
    """The clock of the sender may be slow, while the instance terminates in two minutes."""
    assert signal(timestamp=0).signalled_at == datetime(1970, 1, 1, tzinfo=UTC)
    assert signal(termination_time=0).terminates_at == datetime(1970, 1, 1, tzinfo=UTC)


# Any input is accepted, or rejected with a reason

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**30), 10**400),
    st.floats(),
    st.decimals(),
    st.text(max_size=20),
    st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    st.sampled_from(["m5.large.us-east-1a", "termination-notice", "", 0.05, EPOCH_NOW]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
names = st.sampled_from(
    [
        *("spot_price", "pool_id", "timestamp", "is_replica", "instance_id"),
        *("signal_type", "termination_time"),
    ]
)
payloads = st.one_of(values, st.dictionaries(names, values, min_size=2))
almost = st.dictionaries(names, values, max_size=2).map(
    lambda fields: {
        "spot_price": 0.05,
        "pool_id": "p",
        "timestamp": EPOCH_NOW,
        "signal_type": "rebalance-recommendation",
        **fields,
    }
)


def accepted_or_rejected(parse, *arguments):
    """Return the parsed value, or None for `Refused`; other exceptions pass through."""
    try:
        return parse(*arguments)
    except Refused as caught:
        refused = caught
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", refused.reason)
    assert refused.message.strip()
    return None


@settings(max_examples=200)
@given(st.one_of(st.just("a"), values), payloads | almost)
def test_any_report_is_accepted_or_rejected(agent_id, payload):
    taken = accepted_or_rejected(parse_report, agent_id, payload, NOW)
    if taken is not None:
        assert 0 < taken.observation.price <= 1000
        assert taken.observation.price == round(taken.observation.price, 8)
        assert datetime(2006, 1, 1, tzinfo=UTC) <= taken.observation.at
        assert taken.observation.at <= NOW + timedelta(minutes=5)
        assert 1 <= len(taken.agent_id) <= 64
        assert 1 <= len(taken.pool_id) <= 128


class OddFloat(float):
    """A float of a numerical library: its repr is not a number."""

    def __repr__(self):
        return f"odd.float64({float(self)})"


def test_a_float_of_another_make_is_accepted_or_rejected():
    """A program that calls the façade in process may pass floats of its own types."""
    for field in ("spot_price", "timestamp"):
        payload = {"spot_price": 0.05, "pool_id": "p", "timestamp": EPOCH_NOW}
        payload[field] = OddFloat(payload[field])
        accepted_or_rejected(parse_report, "a", payload, NOW)


@settings(max_examples=200)
@given(payloads | almost)
def test_any_signal_is_accepted_or_rejected(payload):
    taken = accepted_or_rejected(parse_signal, payload, NOW)
    if taken is not None:
        assert taken.type in SignalType
        assert taken.signalled_at.tzinfo is UTC


@given(st.decimals(Decimal("0.00000001"), 1000, places=8))
def test_a_price_with_eight_decimals_is_kept_unchanged(price):
    assert report(spot_price=price).observation.price == price
    assert report(spot_price=float(price)).observation.price == price


@given(
    st.integers(1_136_073_600_000_000, 1_709_294_400_000_000),
    st.integers(-14 * 60, 14 * 60),
)
def test_a_time_is_kept_to_the_microsecond(microseconds, minutes):
    moment = datetime(1970, 1, 1, tzinfo=UTC) + microseconds * MICRO
    shift = timedelta(minutes=minutes)
    sign = "-" if minutes < 0 else "+"
    offset = f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    written = (moment + shift).replace(tzinfo=None).isoformat() + offset
    assert parse_instant(written, "timestamp") == moment
    seconds = Decimal(microseconds).scaleb(-6)
    assert parse_instant(seconds, "timestamp") == moment
    assert parse_instant(float(seconds), "timestamp") == moment
