"""wrk, which sends requests that were prepared, over some connections at once, for some seconds."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bench.results import ROOT

THREADS = 2
MOST_A_SECOND = 30_000
"""More than any of the servers answers: so many requests are prepared for each second."""

SETTLE_SECONDS = 0.5
"""wrk does not wait for the answers to what it sent last: the server has still to do that."""

Request = tuple[str, str]
"""Path and body."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of it: answers per second, and the milliseconds that 99 of 100 stayed under."""

    rate: float
    p99: float


class Refused(Exception):
    """A server answered with errors, or not at all: there is no figure."""


def send(
    base: str,
    requests: Iterable[Request],
    *,
    home: Path,
    connections: int,
    seconds: float,
    method: str = "POST",
    most: int = MOST_A_SECOND,
) -> Answered:
    """Send requests, each at most once, in their order.

    Raises:
        Refused: some were not answered with 2xx, or no answer came, or there is no wrk.
    """
    if shutil.which("wrk") is None:
        raise Refused("wrk is not installed: sudo apt install wrk")
    prepared = list(islice(requests, int(most * (seconds + 1))))
    file = home / "requests"
    for thread in range(THREADS):
        lines = (f"{path}\t{body}\n" for path, body in prepared[thread::THREADS])
        Path(f"{file}.{thread}").write_text("".join(lines))
    whole = [
        f"-t{THREADS}",
        f"-c{connections}",
        f"-d{seconds:.0f}s",
        "--timeout",
        "20s",
        "--latency",
    ]
    script = str(ROOT / "bench" / "requests.lua")
    ran = subprocess.run(
        ["wrk", *whole, "-s", script, base, "--", method, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    time.sleep(SETTLE_SECONDS)
    said = ran.stdout + ran.stderr
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\n", said)
    if ran.returncode or "Non-2xx" in said or "Socket errors" in said or not rate or not p99:
        raise Refused(f"{base}: {said.strip()}")
    return Answered(float(rate[1]), float(p99[1]) * MILLISECONDS[p99[2]])


MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
