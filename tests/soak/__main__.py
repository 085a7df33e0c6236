"""`python -m tests.soak`: random stories for hours, or those of one seed again."""

import argparse
import signal
import sys
import time
from collections import Counter

from tests.soak.run import Broken, play, replay
from tests.soak.stage import Ground

DATABASES = ("mariadb", "sqlite")


def main() -> int:
    parser = argparse.ArgumentParser("make soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=0.0, help="0: the stories of one seed")
    parser.add_argument("--seed", type=int, help="the first one; by the clock if none is given")
    parser.add_argument("--database", choices=DATABASES, help="one of the two alone")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    first = int(time.time()) if options.seed is None else options.seed
    databases = [options.database] if options.database else list(DATABASES)
    until = time.monotonic() + options.hours * 3600
    tally: Counter[str] = Counter()
    failed: list[str] = []
    grounds = {database: Ground(database) for database in databases}
    number = first
    try:
        while True:
            for database, ground in grounds.items():
                _play(number, database, ground, tally, failed)
            number += 1
            if time.monotonic() >= until:
                break
    except KeyboardInterrupt:
        print("\nstopped")
    finally:
        for ground in grounds.values():
            ground.close()
    print(f"seeds {first} to {number}: {_told(tally)}")
    for command in failed:
        print(f"failed; again: {command}")
    return 1 if failed else 0


def _play(
    number: int, database: str, ground: Ground, tally: Counter[str], failed: list[str]
) -> None:
    print(f"{time.strftime('%H:%M:%S')} seed {number} on {database}", flush=True)
    try:
        play(number, ground, tally)
    except Broken as broken:
        failed.append(replay(number, database))
        print(f"{broken}\nagain: {failed[-1]}")
    print(f"  so far: {_told(tally)}; failures: {len(failed)}", flush=True)


def _told(tally: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(tally.items()))


if __name__ == "__main__":
    sys.exit(main())
