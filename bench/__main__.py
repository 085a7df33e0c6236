"""Run the benchmarks of SEF. `make bench` installs the tools they need and runs all parts.

    python -m bench                         all parts
    python -m bench reports storm           some of them
    python -m bench --quick reports         a minimal run, which shows that the part works
    python -m bench compare OLD NEW         two files, or folders, of results
    python -m bench page                    docs/benchmarks.md from the stored results

Results are JSON in bench/results, a file for each part. A new run is compared with the stored
results before it replaces them.
"""

import argparse
import importlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from bench import report
from bench.host_info import flush_milliseconds, host_info, versions
from bench.profiles import Profiler
from bench.results import ROOT, STORED, Result, changes, read_all
from bench.schedule import Run

PARTS = (
    "reports",
    "batches",
    "disorder",
    "growth",
    "storm",
    "reads",
    "backfill",
    "imports",
    "footprint",
    "failover",
    "zone",
    "moves",
)
QUICK = ROOT / "var" / "bench"
"""Folder of quick and of profiled runs, whose figures say nothing about speed."""
MAX_ERROR_LENGTH = 1000
"""Maximum length of an error message, in characters: SQLAlchemy's contain all rows."""


def main(given: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if given is None else list(given)
    if arguments[:1] == ["compare"]:
        return compare(arguments[1:])
    if arguments == ["page"]:
        report.render()
        return 0
    return measure(arguments)


def measure(arguments: Sequence[str]) -> int:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round")
    parser.add_argument("--rounds", type=int, help="rounds of each measurement (5)")
    parser.add_argument(
        "--profile", action="store_true", help="also profile SEF with py-spy, which slows it down"
    )
    parser.add_argument("--into", type=Path, help="folder of the results (bench/results)")
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"unknown part {part}; allowed: {', '.join(PARTS)}")
    # py-spy slows SEF down, so a profiled run must not replace the stored results.
    is_for_figures = not (options.quick or options.profile)
    into = options.into or (STORED if is_for_figures else QUICK)
    profiles = STORED if not options.quick and options.into is None else into
    failed = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped
    for part in options.parts or PARTS:
        try:
            run_part(part, options, into, profiles)
        except Exception as error:
            failed.append(part)
            message = f"{type(error).__name__}: {error}"[:MAX_ERROR_LENGTH]
            print(f"\n{part}: failed: {message}", file=sys.stderr, flush=True)
    if into == STORED and len(failed) < len(options.parts or PARTS):
        report.render()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run_part(part: str, options: argparse.Namespace, into: Path, profiles: Path) -> None:
    module = importlib.import_module(f"bench.parts.{part}")
    print(f"{part}: {summary_of(module)}", flush=True)
    home = Path(tempfile.mkdtemp(prefix="sef-bench-"))
    began, date = time.monotonic(), datetime.now(UTC)
    profiler = Profiler(profiles, part) if options.profile else None
    try:
        rounds = options.rounds or (1 if options.quick else 5)
        run = Run(part, home, options.quick, rounds, profiler)
        run.details["flush_ms"] = flush_milliseconds()
        comparisons = module.measure(run)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    run.say("")
    result = Result(
        part=part,
        date=date.strftime("%Y-%m-%d"),
        seconds=round(time.monotonic() - began, 1),
        is_quick=options.quick,
        machine=host_info(),
        versions=versions(),
        comparisons=comparisons,
        details=run.details,
    )
    for line in report.table(comparisons):
        print(f"  {line}")
    stored = into / f"{part}.json"
    if stored.exists():
        print("\n".join(changes(Result.read(stored), result)))
    print(f"{part}: {result.seconds:.0f} s, {_relative(result.write(into))}")
    if profiler is not None and (path := profiler.write()):
        print(f"{part}: profile in {_relative(path)}")
    sys.stdout.flush()


def compare(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench compare")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    for place in (options.old, options.new):
        if not place.exists():
            parser.error(f"{place} does not exist")
    old, new = read_all(options.old), read_all(options.new)
    for part in old.keys() | new.keys():
        if part in old and part in new:
            print("\n".join(changes(old[part], new[part])))
        else:
            print(f"{part}: only in {options.old if part in old else options.new}")
    return 0


def summary_of(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n")[0]


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
