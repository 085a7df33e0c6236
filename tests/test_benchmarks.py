"""The benchmarks show stored results, and insert the rows that SEF would write."""

import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select

from bench import __main__, fleet, report
from bench.observations import Ours, observations
from bench.parts.backfill import MISSING, peers_are_there
from bench.parts.reports import LATER
from bench.profiles import Profiler
from bench.results import ROOT, STORED, Aim, Comparison, Result, changes, read_all
from bench.workload import EVERY, START, agents, duals, in_disorder, in_order
from sef.db.tables import price_series, pricing_reports
from smart_emergency_fallback import SmartEmergencyFallback
from tests.harness import ON_MARIADB


def a_result(*comparisons: Comparison, date: str = "2026-01-01") -> Result:
    return Result("reports", date, 1.0, False, {"python": "3.11.7"}, {}, [*comparisons])


def a_comparison(ours: list[float], **more: Any) -> Comparison:
    return Comparison("work", "reports/s", ours, **{"against": "a peer", **more})


# Reports


def test_no_report_of_a_run_is_in_the_future() -> None:
    measurements = 100  # more than any part has
    assert START + LATER * measurements < datetime.now(UTC).timestamp()


# Results


def test_the_page_shows_the_stored_results_and_every_part_has_a_place() -> None:
    text = report.PAGE.read_text()
    assert report.places(text) == list(__main__.PARTS)
    assert report.rendered(text, read_all(STORED)) == text, "run: python -m bench page"


def test_the_charts_are_those_of_the_stored_results() -> None:
    drawn = {path.name: path.read_text() for path in report.CHARTS.glob("*.svg")}
    assert drawn == report.charts(read_all(STORED)), "run: python -m bench page"


def test_no_quick_figures_are_stored() -> None:
    assert not [part for part, result in read_all(STORED).items() if result.is_quick]


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = a_result(a_comparison([2, 4], theirs=[1, 8], aim=Aim(at_least=0.5)))
    assert Result.read(result.write(tmp_path)) == result


@pytest.mark.parametrize(
    ("comparison", "judged", "is_met"),
    [
        pytest.param(
            a_comparison([6, 1, 8], theirs=[10, 10, 10], aim=Aim(at_least=0.6)),
            0.6,
            True,
            id="the median of the ratios, at its limit",
        ),
        pytest.param(
            a_comparison([5, 9], theirs=[10, 10], aim=Aim(at_least=0.8)), 0.7, False, id="below"
        ),
        pytest.param(
            a_comparison([3], theirs=[1], aim=Aim(at_most=2)), 3, False, id="above at most"
        ),
        pytest.param(
            a_comparison([400], theirs=[5], aim=Aim(at_least=500, of_value=True)),
            400,
            False,
            id="the figure itself",
        ),
        pytest.param(
            a_comparison([5], absent="absent", aim=Aim(at_least=0.6)), None, None, id="no peer"
        ),
        pytest.param(a_comparison([5], theirs=[5]), 1, None, id="no aim"),
    ],
)
def test_an_aim_is_judged_by_the_median_over_the_rounds(
    comparison: Comparison, judged: float | None, is_met: bool | None
) -> None:
    assert comparison.judged == judged
    assert comparison.is_met is is_met


def test_a_row_shows_the_median_with_minimum_and_maximum_in_brackets() -> None:
    row = report.table([a_comparison([1000, 3000, 2000], theirs=[1000] * 3, aim=Aim(at_least=3))])[
        2
    ]
    assert row == "| work | 2,000 (1,000 to 3,000) reports/s | a peer | 1,000 | 2 (1 to 3) | " + (
        "≥ 3 x: missed |"
    )


def test_a_missing_peer_is_shown_as_absent() -> None:
    row = report.table([a_comparison([5], absent="absent: not installed", aim=Aim(at_least=1))])[2]
    assert "absent: not installed" in row
    assert "not measured" in row


@pytest.mark.parametrize(
    ("before", "now", "change"),
    [
        ([50], [51], "0.50 → 0.51, about the same"),
        ([50], [75], "0.50 → 0.75, +50%"),
        ([50], [25], "0.50 → 0.25, -50%, misses its aim"),
    ],
)
def test_a_new_run_is_compared_with_an_earlier_one(
    before: list[float], now: list[float], change: str
) -> None:
    old, new = (
        a_result(a_comparison(ours, theirs=[100], aim=Aim(at_least=0.5))) for ours in (before, now)
    )
    assert changes(old, new) == ["reports: since 2026-01-01", f"  work, against a peer: {change}"]


def test_new_and_removed_figures_are_listed() -> None:
    old, new = a_result(a_comparison([1], against="one")), a_result(a_comparison([1], against="b"))
    assert changes(old, new)[1:] == [
        "  work, against b: 1, new",
        "  work, against one: not measured any more",
    ]


# The command


def test_a_quick_run_leaves_the_stored_results_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = report.PAGE.read_text()
    assert __main__.main(["--quick", "--into", str(tmp_path), "backfill"]) == 0
    result = read_all(tmp_path)["backfill"]
    assert result.is_quick
    for one in result.comparisons:
        assert len(one.ours) == 1
        assert one.absent == ("" if peers_are_there() else MISSING)
    assert result.machine["cores"] >= 1
    assert report.PAGE.read_text() == before
    assert "backfill: A million" in capsys.readouterr().out


def test_an_unknown_part_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["repots"])
    assert "unknown part repots; allowed: reports, batches" in capsys.readouterr().err


@pytest.mark.parametrize("program", ["failover.py", "replay.py"])
def test_a_program_runs_from_its_file(program: str) -> None:
    command = [sys.executable, str(ROOT / "bench" / program), "--help"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stdout.startswith(f"usage: {program}"), ran.stderr


def test_two_folders_of_results_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_result(a_comparison([1], theirs=[1])).write(tmp_path / "old")
    a_result(a_comparison([2], theirs=[1])).write(tmp_path / "new")
    assert __main__.main(["compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert "1 → 2, +100%" in capsys.readouterr().out


def test_a_profile_groups_samples_by_function_and_by_library(tmp_path: Path) -> None:
    profiler = Profiler(tmp_path, "reports")
    stack = "process 7;_run (threading.py:1);write (sef/prices/write.py:5);dumps (json/a.py:2)"
    profiler._stacks["work"] = Counter({stack: 3, "_run (threading.py:1)": 1})
    path = profiler.write()
    assert path is not None
    lines = [line.split() for line in path.read_text().splitlines()]
    assert ["75.0%", "sef/prices"] in lines
    assert ["75.0%", "dumps", "(json/a.py)"] in lines
    assert ["100.0%", "_run", "(threading.py)"] in lines


# Work loads


def test_disorder_repeats_and_delays_a_tenth_and_loses_nothing() -> None:
    names = agents(10)
    sent = list(islice(in_disorder(names, START), 10_000))
    of_one = [one for one in sent if one.agent_id == names[1]]
    alone = list(islice(in_order(names[1:2], START), len(of_one)))
    assert {one.at for one in of_one} >= {one.at for one in alone[: len(of_one) * 4 // 5]}
    repeats = len(sent) - len(set(sent))
    assert 0.06 < repeats / len(sent) < 0.14
    overtaken = sum(
        later.at < earlier.at
        for name in names
        for earlier, later in zip(
            [one for one in sent if one.agent_id == name],
            [one for one in sent if one.agent_id == name][1:],
            strict=False,
        )
    )
    assert overtaken > len(sent) / 20
    assert {one.agent_id for one in sent if one.is_replica} == set(duals(names))


def test_a_backfill_has_points_of_every_kind() -> None:
    rows = Ours(observations(5000)).rows()
    assert {flag for *_, flag in rows} == {0, 1, 2, 3}


@ON_MARIADB
def test_rows_of_a_fleet_equal_the_rows_that_sef_writes(
    sef: SmartEmergencyFallback, database_url: str
) -> None:
    names, points = agents(3, "bench"), 4
    start = START - EVERY * points
    reports = list(islice(in_order(names, start), len(names) * points))
    for one in reports:
        sef.process_incoming_data(f"sef{one.agent_id[5:]}", "pricing", one.fields())
    engine = create_engine(database_url)
    fleet.register(engine, names, datetime.now(UTC))
    fleet.fill(engine, names, points, START)

    for table in (pricing_reports, price_series):
        left_out = {"agent_id", "received_at"}
        columns = [column for column in table.columns if column.name not in left_out]
        with engine.connect() as connection:
            written, filled = (
                connection.execute(
                    select(*columns)
                    .where(table.c.agent_id.like(f"{name}-%"))
                    .order_by(*table.primary_key)
                ).all()
                for name in ("sef", "bench")
            )
        assert filled == written
        assert len(filled) in (3, 12)
    engine.dispose()
