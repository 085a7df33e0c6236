"""Describe the host of a measurement and the versions of the programs."""

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


def host_info() -> dict[str, Any]:
    """Return processor, memory, operating system and Python version."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def flush_milliseconds(times: int = 200) -> float:
    """Return the median time of a 4 KiB write with fsync, on the disk of the databases."""
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
    """Return the version of each library, database and tool of the benchmarks."""
    found = {name: version(name) for name in OURS}
    for name in PEERS:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            found[name] = "not installed"
    found["MariaDB"] = _version_of(mariadb_server.find(), "--version")
    found["InfluxDB"] = _version_of(shutil.which("influxd"), "version")
    found["wrk"] = _version_of(shutil.which("wrk"), "--version")
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    return model[1] if model else platform.machine()


def _version_of(program: str | None, option: str) -> str:
    if program is None:
        return "not installed"
    # wrk prints its version with its usage, and exits with code 1.
    ran = subprocess.run([program, option], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\w.]*", ran.stdout + ran.stderr)
    return found[0] if found else "unknown"


def children(pid: int) -> Iterator[int]:
    """Yield the ids of a process's child processes."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            yield from map(int, (task / "children").read_text().split())


def cpu_milliseconds(pid: int) -> float:
    """Return the CPU time so far of a process and its descendants."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    own = 1000 * ticks / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_milliseconds(child) for child in children(pid))
