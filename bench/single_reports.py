"""One report at a time: SEF against a plain INSERT, over HTTP and in process.

    .venv/bin/python bench/single_reports.py            # needs mariadbd and wrk

Every figure stands beside its peer in the same run, on the same database: SQLite with
synchronous=FULL, and a private MariaDB that flushes at every commit.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import servers  # noqa: E402
from bench.before import INSERT, TABLE  # noqa: E402
from sef.config import Settings  # noqa: E402
from smart_emergency_fallback import SmartEmergencyFallback  # noqa: E402

START = 1_600_000_000
POOL = "m5.large.us-east-1a"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement (3)")
    parser.add_argument("--seconds", type=int, default=6, help="length of an HTTP round (6)")
    parser.add_argument("--connections", type=int, default=32, help="HTTP connections (32)")
    parser.add_argument("--workers", type=int, default=2, help="Granian workers (2)")
    parser.add_argument("--reports", type=int, default=1000, help="in process, of a round (1000)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed: sudo apt install wrk")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home, servers.mariadb() as server:
        for name, url in (("SQLite", f"sqlite:///{home}/sef.db"), ("MariaDB", server.url("sef"))):
            figures[name] = {
                "in process": in_process(url, options),
                "HTTP": over_http(url, Path(home) / name, options),
            }
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def in_process(url: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Reports per second of one thread: the plain INSERT and process_incoming_data in turns."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(TABLE))
    sef = SmartEmergencyFallback(url, settings=Settings(jobs=False))

    def plain(number: int) -> None:
        row = {"agent_id": "a", "pool_id": POOL, "timestamp": number, "spot_price": 0.03}
        with engine.begin() as connection:
            connection.execute(INSERT, row)

    def clean(number: int) -> None:
        payload = {"pool_id": POOL, "timestamp": START + 300 * (number // 100), "spot_price": 0.03}
        answer = sef.process_incoming_data(f"in-process-{number % 100}", "pricing", payload)
        assert answer["status"] == "success", answer

    rates: dict[str, list[float]] = {"plain INSERT": [], "SEF": []}
    for round_number in range(options.rounds):
        first = round_number * options.reports
        for name, work in (("plain INSERT", plain), ("SEF", clean)):
            rates[name].append(rate(work, first, options.reports))
    sef.close()
    engine.dispose()
    return rates


def rate(work: Callable[[int], None], first: int, count: int) -> float:
    started = time.perf_counter()
    for number in range(first, first + count):
        work(number)
    return count / (time.perf_counter() - started)


def over_http(url: str, var: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Requests per second under wrk, the three servers in turns."""
    rates: dict[str, list[float]] = {"validate only": [], "plain INSERT": [], "SEF": []}
    for round_number in range(options.rounds):
        start = START + round_number * 10_000_000
        with servers.peer(url, workers=options.workers) as base:
            rates["validate only"].append(wrk(f"{base}/validate/%s", start, options))
            rates["plain INSERT"].append(wrk(f"{base}/before/%s", start, options))
        with servers.sef(url, var, workers=options.workers) as base:
            rates["SEF"].append(wrk(f"{base}/api/agents/%s/pricing", start, options))
    return rates


def wrk(target: str, start: int, options: argparse.Namespace) -> float:
    base, path = re.fullmatch(r"(http://[^/]+)(/.*)", target).groups()  # type: ignore[union-attr]
    answer = subprocess.run(
        [
            "wrk",
            "-t2",
            f"-c{options.connections}",
            f"-d{options.seconds}s",
            "-s",
            str(ROOT / "bench" / "report.lua"),
            base,
            "--",
            path,
            str(start),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    if "Non-2xx" in answer:
        sys.exit(f"errors from {target}:\n{answer}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", answer)[1])  # type: ignore[index]


def show(figures: dict[str, Any]) -> None:
    for database, parts in figures.items():
        for part, rates in parts.items():
            peer = statistics.median(rates["plain INSERT"])
            for name, values in rates.items():
                median = statistics.median(values)
                spread = f"{min(values):.0f} to {max(values):.0f}"
                print(
                    f"{database:8} {part:11} {name:14} {median:7.0f}/s  ({spread}),"
                    f" {median / peer:.2f} x plain INSERT"
                )


if __name__ == "__main__":
    main()
