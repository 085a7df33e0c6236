"""`python backend.py import FILE`: a backfill from a file, which can be gone on with later."""

import gzip
import hashlib
import json
import os
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import click

from sef.errors import Refused
from sef.prices.parse import (
    BYTE_ORDER_MARK,
    Line,
    lines,
    parse_csv_header,
    parse_csv_line,
    parse_json_line,
)
from sef.prices.reports import COUNTED, LoadResult, load

CHUNK_BYTES = 256 * 1024
GZIP = b"\x1f\x8b"
MAX_SHOWN = 20
"""How many refused lines are shown."""
STDIN = "-"
BROKEN = (gzip.BadGzipFile, EOFError, zlib.error, OSError)

ProcessBatch = Callable[[Sequence[Any]], dict[str, Any]]


class CannotImport(click.ClickException):
    """The file cannot be read, or not any further."""


@dataclass(frozen=True, slots=True)
class _File:
    raw: BinaryIO
    """As it is stored: its position tells how far we are."""
    text: Any
    """What is in it."""
    size: int | None


class Checkpoint:
    """How far the import of a file has come, kept until it is through.

    It is about that file as it was, and about one database.
    """

    def __init__(self, folder: Path, file: Path, of: Mapping[str, Any]) -> None:
        status = file.stat()
        self._of = {
            "file": str(file.resolve()),
            "size": status.st_size,
            "modified": status.st_mtime_ns,
            **of,
        }
        name = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
        self._path = folder / f"{name}.json"

    def read(self) -> LoadResult:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return LoadResult()
        if found["of"] != self._of:
            return LoadResult()
        told = found["tally"]
        return LoadResult(**(told | {"counts": Counter(told["counts"])}))

    def write(self, tally: LoadResult) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"of": self._of, "tally": tally.as_json()}))
        os.replace(new, self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def import_file(
    source: str,
    process_batch: ProcessBatch,
    *,
    defaults: Mapping[str, str],
    checkpoint: Checkpoint | None,
) -> LoadResult:
    """Store the reports of a file, going on where an earlier import of it stopped.

    Args:
        source: a path, or `-` for standard input; CSV or NDJSON, also compressed by gzip.
        process_batch: stores some.
        defaults: fields of a report for the lines that do not have them.
        checkpoint: None if it begins anew and leaves no trace.

    Raises:
        CannotImport: the file is neither, or is broken; what came before is stored.
        SefError: the database is away.
    """
    tally = checkpoint.read() if checkpoint else LoadResult()
    if tally.line:
        click.echo(f"going on at line {tally.line + 1:,}; --restart would begin anew", err=True)
    with _opened(source) as file, _progress(file) as show:
        try:
            for _ in load(*_lines(file, tally, defaults), process_batch, tally):
                if checkpoint:
                    checkpoint.write(tally)
                show(tally)
        except BROKEN as error:
            raise CannotImport(
                f"{source} cannot be read after line {tally.line:,}: {error}"
            ) from error
    if checkpoint:
        checkpoint.remove()
    return tally


def _lines(
    file: _File, tally: LoadResult, defaults: Mapping[str, str]
) -> tuple[Iterator[Line], Callable[[Line], Any]]:
    """The lines that are left, and how one is read."""
    pieces: Iterator[bytes] = iter(lambda: file.text.read(CHUNK_BYTES), b"")
    found = lines(pieces)
    parse: Callable[[Line], Any] = parse_json_line
    if not _is_ndjson(file):
        header = next(found, Line(1, 0, b""))
        try:
            parse = partial(parse_csv_line, columns=parse_csv_header(header))
        except Refused as refused:
            raise CannotImport(
                f"this is neither NDJSON nor CSV that begins with a header. {refused.message}"
            ) from None

    def with_defaults(line: Line) -> Any:
        report = parse(line)
        return {**defaults, **report} if isinstance(report, dict) else report

    if tally.end:
        file.text.seek(tally.end)
        found = lines(pieces, number=tally.line, start=tally.end)
    return found, with_defaults


def _is_ndjson(file: _File) -> bool:
    beginning = file.text.peek(1024)
    return bool(beginning.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"{"))


@contextmanager
def _opened(source: str) -> Iterator[_File]:
    with click.open_file(source, "rb") as opened:
        raw: Any = opened
        size = None if source == STDIN else Path(source).stat().st_size
        is_compressed = raw.peek(2)[:2] == GZIP
        yield _File(raw, gzip.GzipFile(fileobj=raw) if is_compressed else raw, size)


@contextmanager
def _progress(file: _File) -> Iterator[Callable[[LoadResult], None]]:
    """Shows how far it is: a bar, or now and then a line where nobody knows the end."""
    started, first = time.monotonic(), None

    def told(tally: LoadResult | None) -> str:
        nonlocal first
        if tally is None:
            return ""
        first = tally.line if first is None else first
        rate = (tally.line - first) / max(time.monotonic() - started, 0.001)
        return f"{tally.line:,} lines, {rate:,.0f}/s, {tally.rejected_total:,} refused"

    if file.size is None:
        yield (
            lambda tally: (
                click.echo(told(tally), err=True)
                if tally.line and tally.line % 100_000 == 0
                else None
            )
        )
        return
    with click.progressbar(
        length=file.size, label="importing", file=sys.stderr, item_show_func=told
    ) as bar:
        yield lambda tally: bar.update(file.raw.tell() - bar.pos, tally)


def print_result(tally: LoadResult) -> None:
    """Say what became of the lines, and which were refused and why."""
    parts = [f"{tally.counts[name]:,} {name}" for name in COUNTED]
    click.echo(f"{', '.join(parts)}, {tally.rejected_total:,} refused")
    for one in tally.as_answer()["rejected"][:MAX_SHOWN]:
        click.echo("line {line}: {reason}: {message}".format_map(one))
    if tally.rejected_total > MAX_SHOWN:
        click.echo(f"... and {tally.rejected_total - MAX_SHOWN:,} more lines")
