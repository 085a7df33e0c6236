"""python backend.py import FILE."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.db.rows import row_counts, stored_points
from tests.harness import ONCE
from tests.waiting import LIMIT, until
from tests.web.server import ROOT

T = 1637500000

Run = Callable[..., subprocess.CompletedProcess[str]]


def report(number: int, agent_id: str = "a", **fields: Any) -> dict[str, Any]:
    made = {"agent_id": agent_id, "pool_id": "p", "spot_price": 0.05, "timestamp": T + number * 60}
    return made | fields


def ndjson(*reports: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(one)}\n" for one in reports)


@pytest.fixture
def environment(tmp_path: Path, database_url: str) -> dict[str, str]:
    return os.environ | {"SEF_VAR": str(tmp_path / "var"), "SEF_DATABASE_URL": database_url}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def run_it(*arguments: Any, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "backend.py", "import", *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=2 * LIMIT,
        )

    return run_it


def test_an_ndjson_file_is_stored_and_what_it_refuses_is_told(
    run: Run, tmp_path: Path, database_url: str
) -> None:
    file = tmp_path / "reports.ndjson"
    file.write_text(
        ndjson(report(0), report(20)) + "{\n\n" + ndjson(report(0, spot_price=-1), report(20))
    )
    done = run(file)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        "2 accepted, 0 buffered, 1 duplicates, 3 interpolated, 2 refused",
        "line 3: invalid_json: The line must be JSON.",
        "line 5: spot_price_not_positive: spot_price must be above zero.",
    ]
    assert len(stored_points(database_url, "a", "p")) == 5

    file.write_text(ndjson(report(0), report(1)))
    again = run(file)
    assert again.stdout == "1 accepted, 0 buffered, 1 duplicates, 3 interpolated, 0 refused\n"
    assert again.returncode == 0


CSV = """\
Timestamp,SpotPrice,Region,is_replica
2021-11-21 13:06:40+00:00,0.05,us-east-1,
1637500005,0.052,us-east-1,true
2021-11-21T13:26:40Z,0.05,us-east-1,
"""


@ONCE
@pytest.mark.parametrize("kind", ["a file", "compressed", "standard input"])
def test_csv_is_stored_with_what_it_lacks_from_the_command_line(
    run: Run, tmp_path: Path, database_url: str, kind: str
) -> None:
    file, given = tmp_path / "prices.csv", ["--agent", "a", "--pool", "p"]
    if kind == "standard input":
        done = run("-", *given, text=CSV)
    else:
        file.write_bytes(gzip.compress(CSV.encode()) if kind == "compressed" else CSV.encode())
        done = run(file, *given)
    assert (done.returncode, done.stdout) == (
        0,
        "3 accepted, 0 buffered, 0 duplicates, 3 interpolated, 0 refused\n",
    ), done.stderr
    flags = [str(point.flag) for point in stored_points(database_url, "a", "p")]
    assert flags == ["averaged_dual_source", *["interpolated"] * 3, "normal"]


@ONCE
def test_what_is_no_file_of_reports_is_one_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("something else\n")
    for arguments, said in [
        ([file], "The first line must name the columns"),
        ([tmp_path / "missing"], "does not exist"),
        ([tmp_path], "is a directory"),
    ]:
        done = run(*arguments)
        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr


@ONCE
def test_of_a_damaged_file_the_whole_lines_before_are_stored(
    run: Run, tmp_path: Path, database_url: str
) -> None:
    file = tmp_path / "reports.ndjson.gz"
    rows = [report(number, note=os.urandom(200).hex()) for number in range(3000)]
    file.write_bytes(gzip.compress(ndjson(*rows).encode())[:-100_000])
    done = run(file)
    assert done.returncode == 1
    assert "cannot be read after line" in done.stderr
    assert "Traceback" not in done.stderr
    stored = len(stored_points(database_url, "a", "p"))
    assert stored % 1000 == 0
    assert stored > 0


def stop_in_the_middle(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> tuple[Path, str]:
    """A file of 12,000 reports, whose import was sent a signal in the middle, and what it said."""
    file = tmp_path / "reports.ndjson.gz"
    rows = (report(number // 10, f"a{number % 10}") for number in range(12_000))
    file.write_bytes(gzip.compress(ndjson(*rows).encode(), compresslevel=1))
    process = subprocess.Popen(
        [sys.executable, "backend.py", "import", str(file)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoints = tmp_path / "var/imports"
    until(lambda: list(checkpoints.glob("*.json")) or process.poll() is not None)
    process.send_signal(number)
    said = process.communicate(timeout=LIMIT)[1]
    assert process.returncode != 0, "it was not stopped in the middle"
    return file, said


@pytest.fixture
def killed(environment: dict[str, str], tmp_path: Path, database_url: str) -> Path:
    file, _ = stop_in_the_middle(environment, tmp_path, signal.SIGKILL)
    assert 0 < row_counts(database_url)["pricing_reports"] < 12_000
    return file


@ONCE
def test_one_that_is_stopped_by_ctrl_c_says_how_to_go_on(
    environment: dict[str, str], tmp_path: Path, run: Run
) -> None:
    file, said = stop_in_the_middle(environment, tmp_path, signal.SIGINT)
    assert said.endswith("Stopped. Start it again to go on.\n")
    assert "Traceback" not in said
    assert run(file).returncode == 0


def test_an_import_that_was_killed_goes_on_where_it_was(
    run: Run, killed: Path, tmp_path: Path, database_url: str
) -> None:
    done = run(killed)
    assert "going on at line" in done.stderr
    counts = dict(part.split()[::-1] for part in done.stdout.strip().split(", "))
    # What was committed without a checkpoint after it came again.
    stored = int(counts["accepted"].replace(",", "")) + int(counts["duplicates"].replace(",", ""))
    assert (stored, done.returncode) == (12_000, 0)
    assert row_counts(database_url)["pricing_reports"] == 12_000
    assert not list((tmp_path / "var/imports").iterdir())


@ONCE
@pytest.mark.parametrize("why", ["it is told to", "the file is another", "the database is another"])
def test_it_begins_anew_when(
    run: Run, killed: Path, tmp_path: Path, environment: dict[str, str], why: str
) -> None:
    arguments = []
    if why == "it is told to":
        arguments = ["--restart"]
    elif why == "the file is another":
        killed.write_bytes(killed.read_bytes() + gzip.compress(ndjson(report(9_999)).encode()))
    else:
        arguments = ["--database-url", f"sqlite:///{tmp_path / 'another.db'}"]
    done = run(killed, *arguments)
    assert done.returncode == 0, done.stderr
    assert "going on at line" not in done.stderr


@ONCE
def test_it_explains_itself(run: Run) -> None:
    said = run("--help").stdout
    for word in ("NDJSON", "CSV", "gzip", "spot_price", "--agent", "--restart", "exit code 1"):
        assert word in said
