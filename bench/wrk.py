"""Send prepared requests with wrk, over several connections, for some seconds."""

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
"""Prepared requests per second: more than any of the servers answers."""

SETTLE_SECONDS = 0.5
"""wrk stops before its last requests are answered; the server needs this time for them."""

MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}

Request = tuple[str, str]
"""Path and body."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers per second, and the 99th percentile of their times in milliseconds."""

    rate: float
    p99: float


class Refused(Exception):
    """A server answered with errors or not at all, so there is no figure."""


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
    """Send requests in their order, each at most once.

    Raises:
        Refused: an answer was not 2xx, no answer came, or wrk is not installed.
    """
    if shutil.which("wrk") is None:
        raise Refused("wrk is not installed: sudo apt install wrk")
    prepared = list(islice(requests, int(most * (seconds + 1))))
    file = home / "requests"
    for thread in range(THREADS):
        lines = (f"{path}\t{body}\n" for path, body in prepared[thread::THREADS])
        Path(f"{file}.{thread}").write_text("".join(lines))
    arguments = [
        f"-t{THREADS}",
        f"-c{connections}",
        f"-d{seconds:.0f}s",
        "--timeout",
        "20s",
        "--latency",
    ]
    script = str(ROOT / "bench" / "requests.lua")
    ran = subprocess.run(
        ["wrk", *arguments, "-s", script, base, "--", method, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    time.sleep(SETTLE_SECONDS)
    output = ran.stdout + ran.stderr
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\n", output)
    if ran.returncode or "Non-2xx" in output or "Socket errors" in output or not rate or not p99:
        raise Refused(f"{base}: {output.strip()}")
    return Answered(float(rate[1]), float(p99[1]) * MILLISECONDS[p99[2]])
