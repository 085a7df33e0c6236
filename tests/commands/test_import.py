"""`sef import FILE`."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from sef.commands.import_file import Checkpoint
from tests.commands.in_process import invoke
from tests.db.rows import row_counts, stored_points
from tests.harness import ONCE
from tests.waiting import LIMIT, until
from tests.web.server import ROOT

T = 1637500000

Run = Callable[..., Result]


def report(number: int, agent_id: str = "a", **fields: Any) -> dict[str, Any]:
    made = {"agent_id": agent_id, "pool_id": "p", "spot_price": 0.05, "timestamp": T + number * 60}
    return made | fields


def ndjson(*reports: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(one)}\n" for one in reports)


@pytest.fixture
def environment(tmp_path: Path, database_url: str) -> dict[str, str]:
    return {"SEF_VAR": str(tmp_path / "var"), "SEF_DATABASE_URL": database_url}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Return a function that runs an import in this process."""

    def run_in_process(*arguments: Any) -> Result:
        return invoke("import", *map(str, arguments), environment=environment)

    return run_in_process


def start(arguments: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "backend.py", "import", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_ndjson_file_is_stored_and_its_rejected_lines_are_listed(
    run: Run, tmp_path: Path, database_url: str
) -> None:
    file = tmp_path / "reports.ndjson"
    file.write_text(
        ndjson(report(0), report(20)) + "{\n\n" + ndjson(report(0, spot_price=-1), report(20))
    )
    result = run(file)
    assert result.exit_code == 1, result.stderr
    assert result.stdout.splitlines() == [
        "2 accepted, 0 buffered, 1 duplicates, 3 interpolated, 2 rejected",
        "line 3: invalid_json: The line must be JSON.",
        "line 5: spot_price_not_positive: spot_price must be above zero.",
    ]
    assert len(stored_points(database_url, "a", "p")) == 5

    file.write_text(ndjson(report(0), report(1)))
    again = run(file)
    assert again.stdout == "1 accepted, 0 buffered, 1 duplicates, 3 interpolated, 0 rejected\n"
    assert again.exit_code == 0


CSV = """\
Timestamp,SpotPrice,Region,is_replica
2021-11-21 13:06:40+00:00,0.05,us-east-1,
1637500005,0.052,us-east-1,true
2021-11-21T13:26:40Z,0.05,us-east-1,
"""
OPTIONS = ["--agent", "a", "--pool", "p"]


def check_csv_was_stored(exit_code: int, output: str, database_url: str) -> None:
    assert (exit_code, output) == (
        0,
        "3 accepted, 0 buffered, 0 duplicates, 3 interpolated, 0 rejected\n",
    )
    flags = [str(point.flag) for point in stored_points(database_url, "a", "p")]
    assert flags == ["averaged_dual_source", *["interpolated"] * 3, "normal"]


@ONCE
@pytest.mark.parametrize("is_compressed", [False, True], ids=["plain", "compressed"])
def test_a_csv_file_is_stored_with_the_agent_and_pool_of_the_options(
    run: Run, tmp_path: Path, database_url: str, is_compressed: bool
) -> None:
    file = tmp_path / "prices.csv"
    file.write_bytes(gzip.compress(CSV.encode()) if is_compressed else CSV.encode())
    result = run(file, *OPTIONS)
    check_csv_was_stored(result.exit_code, result.stdout, database_url)


@ONCE
def test_a_process_stores_csv_from_standard_input(
    environment: dict[str, str], database_url: str
) -> None:
    process = start(["-", *OPTIONS], environment)
    output, _ = process.communicate(CSV, timeout=LIMIT)
    check_csv_was_stored(process.returncode, output, database_url)


@ONCE
def test_a_file_that_cannot_be_imported_is_reported_in_one_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("something else\n")
    for path, message in [
        (file, "Expected NDJSON, or CSV with a header line. The first line must name the columns"),
        (tmp_path / "missing", "does not exist"),
        (tmp_path, "is a directory"),
    ]:
        result = run(path)
        assert result.exit_code != 0
        assert isinstance(result.exception, SystemExit)
        assert message in result.stderr


@ONCE
def test_the_whole_lines_of_a_damaged_file_are_stored(
    run: Run, tmp_path: Path, database_url: str
) -> None:
    file = tmp_path / "reports.ndjson.gz"
    rows = [report(number, note=os.urandom(200).hex()) for number in range(3000)]
    file.write_bytes(gzip.compress(ndjson(*rows).encode())[:-100_000])
    result = run(file)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert f"Cannot read {file} after line" in result.stderr
    stored = len(stored_points(database_url, "a", "p"))
    assert stored % 1000 == 0
    assert stored > 0


# Stopped imports


def write_reports(tmp_path: Path, count: int) -> Path:
    file = tmp_path / "reports.ndjson.gz"
    rows = (report(number // 10, f"a{number % 10}") for number in range(count))
    file.write_bytes(gzip.compress(ndjson(*rows).encode(), compresslevel=1))
    return file


def signal_in_the_middle(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> tuple[Path, str]:
    """Send a signal to the import of 12,000 reports; return the file and the error output."""
    file = write_reports(tmp_path, 12_000)
    process = start([str(file)], environment)
    checkpoints = tmp_path / "var/imports"
    until(lambda: list(checkpoints.glob("*.json")) or process.poll() is not None)
    process.send_signal(number)
    errors = process.communicate(timeout=LIMIT)[1]
    assert process.returncode != 0, "the import was over before the signal"
    return file, errors


@ONCE
def test_ctrl_c_ends_the_process_with_a_hint_and_the_import_can_resume(
    environment: dict[str, str], tmp_path: Path, run: Run
) -> None:
    file, errors = signal_in_the_middle(environment, tmp_path, signal.SIGINT)
    assert errors.endswith("Stopped. Run the same command again to resume.\n")
    assert "Traceback" not in errors
    assert run(file).exit_code == 0


def test_an_import_whose_process_was_killed_resumes(
    environment: dict[str, str], run: Run, tmp_path: Path, database_url: str
) -> None:
    file, _ = signal_in_the_middle(environment, tmp_path, signal.SIGKILL)
    assert 0 < row_counts(database_url)["pricing_reports"] < 12_000
    result = run(file)
    assert "Resuming at line" in result.stderr
    counts = dict(part.split()[::-1] for part in result.stdout.strip().split(", "))
    # Reports that were committed after the last checkpoint are imported again, as duplicates.
    stored = int(counts["accepted"].replace(",", "")) + int(counts["duplicates"].replace(",", ""))
    assert (stored, result.exit_code) == (12_000, 0)
    assert row_counts(database_url)["pricing_reports"] == 12_000
    assert not list((tmp_path / "var/imports").iterdir())


@pytest.fixture
def stopped(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file whose import was stopped after its first checkpoint."""
    file = write_reports(tmp_path, 3000)
    write = Checkpoint.write

    def write_and_stop(self: Checkpoint, *arguments: Any) -> None:
        write(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(Checkpoint, "write", write_and_stop)
        result = run(file)
    assert result.stderr.endswith("Stopped. Run the same command again to resume.\n")
    return file


@ONCE
def test_a_stopped_import_resumes_with_the_same_command(run: Run, stopped: Path) -> None:
    result = run(stopped)
    assert result.exit_code == 0, result.stderr
    assert "Resuming at line 1,001 (--restart starts over)" in result.stderr


@ONCE
@pytest.mark.parametrize("change", ["--restart", "the file has changed", "another database"])
def test_a_stopped_import_starts_over_after_a_change(
    run: Run, stopped: Path, tmp_path: Path, change: str
) -> None:
    arguments = []
    if change == "--restart":
        arguments = ["--restart"]
    elif change == "the file has changed":
        stopped.write_bytes(stopped.read_bytes() + gzip.compress(ndjson(report(9_999)).encode()))
    else:
        arguments = ["--database-url", f"sqlite:///{tmp_path / 'another.db'}"]
    result = run(stopped, *arguments)
    assert result.exit_code == 0, result.stderr
    assert "Resuming at line" not in result.stderr


@ONCE
def test_the_help_explains_formats_options_and_exit_code(run: Run) -> None:
    text = run("--help").stdout
    for word in ("NDJSON", "CSV", "gzip", "spot_price", "--agent", "--restart", "exit code 1"):
        assert word in text
