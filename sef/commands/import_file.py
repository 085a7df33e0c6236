"""`sef import FILE`: store the pricing reports of a file; an import that was stopped can resume."""

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

from sef.config import Settings
from sef.db.database import Database
from sef.db.leases import deployment_name
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
"""Number of bytes that are read at once."""
GZIP = b"\x1f\x8b"
"""First bytes of a file that gzip has compressed."""
MAX_SHOWN = 20
"""Maximum number of rejected lines that are printed."""
STDIN = "-"
"""Name of standard input on the command line."""
READ_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error, OSError)
"""Errors of a file that is damaged or cannot be read."""
LINES_PER_MESSAGE = 100_000
"""Number of lines between two messages about the progress of standard input."""

ProcessBatch = Callable[[Sequence[Any]], dict[str, Any]]


class CannotImport(click.ClickException):
    """The file cannot be read, or only a part of it."""


@dataclass(frozen=True, slots=True)
class _File:
    """An open file.

    Attributes:
        raw: the file as it is stored; its position is the progress.
        text: its content, decompressed.
        size: its size in bytes, or None for standard input.
    """

    raw: BinaryIO
    text: Any
    size: int | None


class Checkpoint:
    """The progress of an import, kept in a file until the import is complete.

    It is valid for the unchanged file, the same database and the same options only.
    """

    def __init__(self, folder: Path, file: Path, of: Mapping[str, Any]) -> None:
        """Use the checkpoint of a file.

        Args:
            of: values that identify the import, apart from the file.
        """
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
        """Return the progress, or an empty result if there is no valid checkpoint."""
        try:
            stored = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return LoadResult()
        if stored["of"] != self._of:
            return LoadResult()
        tally = stored["tally"]
        return LoadResult(**(tally | {"counts": Counter(tally["counts"])}))

    def write(self, tally: LoadResult) -> None:
        """Replace the checkpoint."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"of": self._of, "tally": tally.as_json()}))
        os.replace(new, self._path)

    def remove(self) -> None:
        """Delete the checkpoint, if there is one."""
        self._path.unlink(missing_ok=True)


def open_checkpoint(
    settings: Settings, source: str, defaults: Mapping[str, str], *, restart: bool
) -> Checkpoint | None:
    """Return the checkpoint of an import; with `restart`, delete its progress first.

    An import from standard input has no checkpoint.
    """
    if source == STDIN:
        return None
    database = Database(settings.database)
    identity = {"sef": database.write(deployment_name), "defaults": defaults}
    database.dispose()
    checkpoint = Checkpoint(settings.var / "imports", Path(source), identity)
    if restart:
        checkpoint.remove()
    return checkpoint


def import_file(
    source: str,
    process_batch: ProcessBatch,
    *,
    defaults: Mapping[str, str],
    checkpoint: Checkpoint | None,
) -> LoadResult:
    """Store the reports of a file; resume where an earlier import of it stopped.

    Args:
        source: a path, or `-` for standard input; CSV or NDJSON, also compressed by gzip.
        process_batch: stores a list of reports.
        defaults: fields for the reports of lines that lack them.
        checkpoint: None to start at the first line and keep no progress.

    Raises:
        CannotImport: the file has another format, or is damaged; the lines before the damage are
            stored.
        SefError: the database cannot be reached.
    """
    tally = checkpoint.read() if checkpoint else LoadResult()
    if tally.line:
        click.echo(f"Resuming at line {tally.line + 1:,} (--restart starts over)", err=True)
    with _opened(source) as file, _progress(file) as show_progress:
        try:
            for _ in load(*_lines(file, tally, defaults), process_batch, tally):
                if checkpoint:
                    checkpoint.write(tally)
                show_progress(tally)
        except READ_ERRORS as error:
            raise CannotImport(
                f"Cannot read {source} after line {tally.line:,}: {error}. The reports up to this "
                "line are stored."
            ) from error
    if checkpoint:
        checkpoint.remove()
    return tally


def print_result(tally: LoadResult) -> None:
    """Print the number of lines by result, and the rejected lines with their reasons."""
    parts = [f"{tally.counts[name]:,} {name}" for name in COUNTED]
    click.echo(f"{', '.join(parts)}, {tally.rejected_total:,} rejected")
    for line in tally.as_answer()["rejected"][:MAX_SHOWN]:
        click.echo("line {line}: {reason}: {message}".format_map(line))
    if tally.rejected_total > MAX_SHOWN:
        click.echo(f"... and {tally.rejected_total - MAX_SHOWN:,} more")


def _lines(
    file: _File, tally: LoadResult, defaults: Mapping[str, str]
) -> tuple[Iterator[Line], Callable[[Line], Any]]:
    """Return the lines that are left, and the function that parses a line."""
    chunks: Iterator[bytes] = iter(lambda: file.text.read(CHUNK_BYTES), b"")
    rest = lines(chunks)
    parse: Callable[[Line], Any] = parse_json_line
    if not _is_ndjson(file):
        header = next(rest, Line(1, 0, b""))
        try:
            parse = partial(parse_csv_line, columns=parse_csv_header(header))
        except Refused as refused:
            raise CannotImport(
                f"Expected NDJSON, or CSV with a header line. {refused.message}"
            ) from None
    if tally.end:
        file.text.seek(tally.end)
        rest = lines(chunks, number=tally.line, start=tally.end)
    return rest, partial(_parse_with_defaults, parse, defaults)


def _parse_with_defaults(
    parse: Callable[[Line], Any], defaults: Mapping[str, str], line: Line
) -> Any:
    report = parse(line)
    return {**defaults, **report} if isinstance(report, dict) else report


def _is_ndjson(file: _File) -> bool:
    start = file.text.peek(1024)
    return bool(start.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"{"))


@contextmanager
def _opened(source: str) -> Iterator[_File]:
    with click.open_file(source, "rb") as opened:
        raw: Any = opened
        size = None if source == STDIN else Path(source).stat().st_size
        is_compressed = raw.peek(2)[:2] == GZIP
        yield _File(raw, gzip.GzipFile(fileobj=raw) if is_compressed else raw, size)


@contextmanager
def _progress(file: _File) -> Iterator[Callable[[LoadResult], None]]:
    """Yield a function that shows the progress: a bar, or lines if the size is unknown."""
    describe = _Description()
    if file.size is None:
        yield partial(_print_progress, describe)
        return
    with click.progressbar(
        length=file.size, label="importing", file=sys.stderr, item_show_func=describe
    ) as bar:
        yield lambda tally: bar.update(file.raw.tell() - bar.pos, tally)


def _print_progress(describe: "_Description", tally: LoadResult) -> None:
    text = describe(tally)
    if tally.line and tally.line % LINES_PER_MESSAGE == 0:
        click.echo(text, err=True)


class _Description:
    """Describes the progress, with the rate since the first call."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first_line: int | None = None

    def __call__(self, tally: LoadResult | None) -> str:
        if tally is None:
            return ""
        if self._first_line is None:
            self._first_line = tally.line
        seconds = max(time.monotonic() - self._started, 0.001)
        rate = (tally.line - self._first_line) / seconds
        return f"{tally.line:,} lines, {rate:,.0f}/s, {tally.rejected_total:,} rejected"
