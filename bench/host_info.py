"""What the figures were measured on, and with which versions."""

import os
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests import mariadb as mariadb_server

OURS = ("flask", "granian", "sqlalchemy", "mysql-connector-python", "boto3", "moto")
PEERS = ("duckdb", "pandas", "numpy")


def machine() -> dict[str, Any]:
    """Processor, memory, system, and how long the disk takes to keep 4 KiB."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def flush_milliseconds(times: int = 200) -> float:
    """How long a write of 4 KiB and its fsync take where the databases are: the median."""
    taken = []
    with tempfile.TemporaryFile() as file:
        for _ in range(times):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    return round(statistics.median(taken) * 1000, 3)


def versions() -> dict[str, str]:
    found = {name: version(name) for name in OURS}
    for name in PEERS:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            found[name] = "not installed"
    found["MariaDB"] = _told_by(mariadb_server.find(), "--version")
    found["InfluxDB"] = _told_by(shutil.which("influxd"), "version")
    found["wrk"] = _told_by(shutil.which("wrk"), "--version")
    return found


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", told.read_text(), re.MULTILINE)
    return named[1] if named else platform.machine()


def _told_by(program: str | None, option: str) -> str:
    if program is None:
        return "not installed"
    # wrk tells its version with a usage text and an exit code of 1.
    ran = subprocess.run([program, option], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\w.]*", ran.stdout + ran.stderr)
    return found[0] if found else "unknown"


def children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            yield from map(int, (task / "children").read_text().split())


def cpu_milliseconds(pid: int) -> float:
    """What a process and those that it started have used of the processor so far."""
    told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(told[11]) + int(told[12])
    own = 1000 * ticks / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_milliseconds(child) for child in children(pid))
