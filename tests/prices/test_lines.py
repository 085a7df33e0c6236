"""Split a text that arrives in pieces into lines, and parse reports from the lines."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sef.errors import Refused
from sef.prices.parse import (
    LONGEST_LINE,
    Line,
    lines,
    parse_csv_header,
    parse_csv_line,
    parse_json_line,
)

LONG = b"x" * LONGEST_LINE


def contents(*pieces: bytes) -> list[bytes | None]:
    return [line.content for line in lines(pieces)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"a\nb\n", [b"a", b"b"], id="two lines"),
        pytest.param(b"a\nb", [b"a", b"b"], id="the last without its end"),
        pytest.param(b"a\r\nb\r\n", [b"a", b"b"], id="ends of two characters"),
        pytest.param(b"\n\na\n", [b"", b"", b"a"], id="blank lines count"),
        pytest.param(b"\xef\xbb\xbfa\nb", [b"a", b"b"], id="a byte order mark"),
        pytest.param(LONG + b"\nb", [LONG, b"b"], id="the longest line"),
        pytest.param(LONG + b"x\nb", [None, b"b"], id="one byte more"),
        pytest.param(b"a\n" + LONG * 5 + b"\nb\n", [b"a", None, b"b"], id="a very long line"),
        pytest.param(LONG * 3, [None], id="nothing but a very long line"),
    ],
)
def test_a_text_is_split_into_lines(text: bytes, expected: list[bytes | None]) -> None:
    assert contents(text) == expected
    assert contents(*(text[i : i + 1000] for i in range(0, len(text), 1000))) == expected


@given(st.binary(max_size=60).map(lambda b: b.replace(b"a", b"\n")), st.data())
def test_lines_and_their_offsets_do_not_depend_on_the_pieces(
    text: bytes, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = list(lines([text]))
    assert list(lines(pieces)) == whole
    if whole:
        last = data.draw(st.sampled_from(whole))
        rest = lines([text[last.end :]], number=last.number, start=last.end)
        assert list(rest) == whole[last.number :]


def test_a_line_has_its_number_and_the_offset_of_the_next_line() -> None:
    assert list(lines([b"ab\n", LONG, LONG, b"\nc"])) == [
        Line(1, 3, b"ab"),
        Line(2, 3 + 2 * LONGEST_LINE + 1, None),
        Line(3, 3 + 2 * LONGEST_LINE + 2, b"c"),
    ]


def line(content: bytes | None) -> Line:
    return Line(1, 0, content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"spot_price": 0.1', "invalid_json"),
        (b"NaN", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (None, "line_too_long"),
    ],
)
def test_an_invalid_json_line_is_rejected(content: bytes | None, reason: str) -> None:
    with pytest.raises(Refused) as raised:
        parse_json_line(line(content))
    assert raised.value.reason == reason


def test_numbers_of_a_json_line_are_exact() -> None:
    assert parse_json_line(line(b'{"spot_price": 0.10}')) == {"spot_price": Decimal("0.10")}


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        pytest.param(
            b"timestamp,spot_price", ["timestamp", "spot_price"], id="the required columns"
        ),
        pytest.param(b"Timestamp, SpotPrice ", ["timestamp", "spot_price"], id="other spellings"),
        pytest.param(
            b'"agent_id","pool_id",timestamp,spot_price,is_replica,instance_id,Region',
            [
                "agent_id",
                "pool_id",
                "timestamp",
                "spot_price",
                "is_replica",
                "instance_id",
                "Region",
            ],
            id="all columns and an unknown one",
        ),
    ],
)
def test_a_header_names_the_columns(header: bytes, columns: list[str]) -> None:
    assert parse_csv_header(line(header)) == columns


@pytest.mark.parametrize(
    "header",
    [b"", b"timestamp", b"spot_price", b"1700000000,0.05", b"timestamp,timestamp,spot_price"],
)
def test_a_header_without_time_or_price_is_rejected(header: bytes) -> None:
    with pytest.raises(Refused, match="must name the columns"):
        parse_csv_header(line(header))


COLUMNS = ["agent_id", "timestamp", "spot_price", "is_replica", "note"]


@pytest.mark.parametrize(
    ("row", "changes"),
    [
        pytest.param(b"a,1700000000,0.05,,", {}, id="an empty is_replica"),
        pytest.param(b"a,1700000000,0.05,True,", {"is_replica": True}, id="true"),
        pytest.param(b"a,1700000000,0.05,0,", {"is_replica": False}, id="0"),
        pytest.param(
            b"a,1700000000,0.05,maybe,", {"is_replica": "maybe"}, id="an invalid is_replica"
        ),
        pytest.param(b"a,1700000000,cheap,,", {"spot_price": "cheap"}, id="an invalid price"),
        pytest.param(
            b"a,2023-11-14T22:13:20Z,0.05,,", {"timestamp": "2023-11-14T22:13:20Z"}, id="ISO 8601"
        ),
        pytest.param(b'"a", 1700000000 ,0.05,,"x, y"', {"note": "x, y"}, id="quotes and spaces"),
    ],
)
def test_a_row_is_a_report(row: bytes, changes: dict[str, Any]) -> None:
    report = {"agent_id": "a", "timestamp": Decimal(1700000000), "spot_price": Decimal("0.05")}
    assert parse_csv_line(line(row), COLUMNS) == report | changes


def test_an_empty_cell_is_a_missing_field() -> None:
    assert parse_csv_line(line(b",,,,"), COLUMNS) == {}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(b"a,1", id="too few cells"),
        pytest.param(b"a,1,2,3,4,5", id="too many cells"),
        pytest.param(b'"a,1,2,3,4', id="an open quote"),
        pytest.param(b"\xff,1,2,3,4", id="invalid UTF-8"),
    ],
)
def test_an_invalid_csv_row_is_rejected(row: bytes) -> None:
    with pytest.raises(Refused) as raised:
        parse_csv_line(line(row), COLUMNS)
    assert raised.value.reason == "invalid_csv"
