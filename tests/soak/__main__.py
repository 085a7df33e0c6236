"""Play random stories for hours, or the stories of one seed: `python -m tests.soak`."""

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

from tests.environment import neutralize
from tests.soak.harness import Ground
from tests.soak.run import Broken, play, replay

DATABASES = ("mariadb", "sqlite")
PROGRESS_SECONDS = 10.0


def main() -> int:
    parser = argparse.ArgumentParser("make soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=0.0, help="0: play one seed")
    parser.add_argument("--seed", type=int, help="first seed; default: from the clock")
    parser.add_argument("--database", choices=DATABASES, help="default: both at the same time")
    options = parser.parse_args()
    first = int(time.time()) if options.seed is None else options.seed
    if options.database:
        return _soak(options.database, first, options.hours)
    command = [sys.executable, "-m", "tests.soak", f"--seed={first}", f"--hours={options.hours}"]
    children = [subprocess.Popen([*command, f"--database={name}"]) for name in DATABASES]
    codes = []
    for child in children:
        # Ctrl-C also reaches the children; wait for their summaries.
        while child.poll() is None:
            with suppress(KeyboardInterrupt):
                child.wait()
        codes.append(child.returncode)
    return max(codes)


def _soak(database: str, first: int, hours: float) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tally: Counter[str] = Counter()
    failed: list[str] = []
    until = time.monotonic() + hours * 3600
    number = first
    summary = "all invariants held"
    ground = Ground(database)
    progress = Progress(database, tally)
    try:
        while True:
            progress.seed = number
            _play(number, ground, tally, failed)
            if time.monotonic() >= until:
                break
            number += 1
    except KeyboardInterrupt:
        _print(database, f"stopped in seed {number}")
        summary = "stopped before the end, all invariants held so far"
    finally:
        progress.end()
        ground.close()
    _print(database, f"counts: {_counts(tally)}")
    for command in failed:
        _print(database, f"failed; reproduce with: {command}")
    seeds = f"seed {first}" if number == first else f"seeds {first} to {number}"
    result = f"{len(failed)} failed" if failed else summary
    _print(database, f"{result}: {seeds}, {progress}")
    return 1 if failed else 0


class Progress:
    """A thread that prints the progress every few seconds."""

    def __init__(self, database: str, tally: Counter[str]) -> None:
        self.seed = 0
        self._database = database
        self._tally = tally
        self._begun = time.monotonic()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        seconds = time.monotonic() - self._begun
        steps, stories = self._tally["steps"], self._tally["stories"]
        return f"{steps} steps in {stories} stories, {seconds:.0f} s, {steps / seconds:.1f} steps/s"

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(PROGRESS_SECONDS):
            _print(self._database, f"seed {self.seed}: {self}")


def _play(number: int, ground: Ground, tally: Counter[str], failed: list[str]) -> None:
    try:
        play(number, ground, tally)
    except Broken as broken:
        failed.append(replay(number, ground.database))
        _print(ground.database, f"seed {number} failed; reproduce with: {failed[-1]}\n{broken}")


def _print(database: str, message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {database}: {message}", flush=True)


def _counts(tally: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(tally.items()))


if __name__ == "__main__":
    neutralize()
    sys.exit(main())
