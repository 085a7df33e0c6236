"""Time from a notice to its answer, its promotion and its cutover, alone and a hundred at once."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.results import ROOT, Aim, Comparison
from bench.schedule import Run

LIMITS = {"1": 100.0, "100": 1000.0}
"""Limit for the 99th percentile, in milliseconds, by the number of notices at once."""


def measure(run: Run) -> Sequence[Comparison]:
    """Run bench/failover.py in a process of its own."""
    output = run.home / "failover.json"
    command = [sys.executable, "bench/failover.py", "--json", str(output)]
    command += ["--alone", str(run.size(100, 3)), "--at-once", str(run.size(100, 5))]
    command += ["--rounds", str(run.rounds)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(ran.stdout + ran.stderr)
    figures = json.loads(output.read_text())
    run.details["figures"] = figures
    return list(comparisons(figures))


def comparisons(figures: Mapping[str, Any]) -> Iterator[Comparison]:
    for case, of_case in figures.items():
        at_once, _, condition = case.partition(" ")
        limit = LIMITS.get(at_once, LIMITS["100"])
        pace = "one at a time" if at_once == "1" else f"{at_once} at once"
        named = f"{pace} {condition}" if condition else pace
        for moment in ("answer", "promotion", "cutover"):
            for share in (50, 99) if moment in of_case else ():
                is_limited = moment != "cutover" and share == 99
                yield Comparison(
                    f"{named}, time to {moment}, p{share}",
                    "ms",
                    [of_case[moment][f"p{share}"]],
                    "the limit" if is_limited else "",
                    [limit] if is_limited else (),
                    Aim(at_most=1) if is_limited else None,
                )
        if "cpu_ms" in of_case:
            yield Comparison(
                f"{named}, CPU per failover",
                "ms",
                [round(sum(of_case["cpu_ms"].values()), 1)],
                note="CPU is the total of SEF, MariaDB, the simulated EC2 and the client.",
            )
