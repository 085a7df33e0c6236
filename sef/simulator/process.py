"""Find, start and own the simulated EC2 of a folder.

Nothing here imports moto. The simulated EC2 is a process of its own (`sef.simulator.server`) that
outlives the process that started it.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sef
from sef.simulator import INFO_FILE
from sef.simulator.client import Simulation, SimulationError

LOG_FILE = "simulated-ec2.log"
LOCK_FILE = "simulated-ec2.lock"
OWNER_FILE = "simulated-ec2.owner"
"""File that exists while a backend owns the simulator; the backend locks it."""

START_SECONDS = 120.0
"""Time limit for a start."""

_POLL_SECONDS = 0.02

_started: list[subprocess.Popen[bytes]] = []
"""Processes started here; the next start removes the ended ones."""


def ensure_running(
    state_dir: Path, *, pending_seconds: float | None = None, spot_prices: Path | None = None
) -> Simulation:
    """Return the running simulated EC2 of a folder, or start one with the state in the folder.

    Several processes may call this at once.

    Args:
        state_dir: folder of its state and its log; created if it does not exist.
        pending_seconds: time that an instance is `pending`; None leaves it unchanged.
        spot_prices: CSV file `timestamp,pool,price`; ignored if the simulator runs already.

    Raises:
        SimulationError: the simulated EC2 cannot be started.
    """
    state = state_dir.resolve()
    try:
        state.mkdir(parents=True, exist_ok=True)
        with _locked(state / LOCK_FILE):
            simulation = find_running(state)
            if simulation is None:
                return _start(state, pending_seconds, spot_prices)
    except OSError as error:
        raise SimulationError(f"the simulated EC2 cannot use {state}: {error}") from error
    if pending_seconds is not None:
        simulation.set_options(pending_seconds=pending_seconds)
    return simulation


@contextmanager
def simulator_for_server(
    state_dir: Path, *, pending_seconds: float | None = None
) -> Iterator[None]:
    """Keep the simulated EC2 of a folder running while a backend serves, and stop it afterwards.

    A simulator that runs already is left to the process that started it. If that process was a
    backend that was killed, this backend becomes the owner: the simulated EC2 survives the SIGKILL
    of a backend, as Amazon's does.
    """
    state = state_dir.resolve()
    state.mkdir(parents=True, exist_ok=True)
    owner = state / OWNER_FILE
    if find_running(state) is not None and not owner.exists():
        yield
        return
    with owner.open("a") as lock:
        try:
            # The kernel releases the lock when its holder dies.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield  # another running backend is the owner
            return
        try:
            ensure_running(state, pending_seconds=pending_seconds)
            yield
        finally:
            simulation = find_running(state)
            if simulation is not None:
                simulation.stop()
            owner.unlink(missing_ok=True)


def find_running(state_dir: Path) -> Simulation | None:
    """Return the simulated EC2 of a folder; None if it does not run."""
    state = state_dir.resolve()
    try:
        info = json.loads((state / INFO_FILE).read_text())
        simulation = Simulation(info["endpoint"])
        health = simulation.health()
    except (FileNotFoundError, ValueError, KeyError, SimulationError):
        return None
    # After a SIGKILL the file is stale, and another simulator may have the port now.
    return simulation if health.get("state") == str(state) else None


def _start(state: Path, pending_seconds: float | None, spot_prices: Path | None) -> Simulation:
    # -P: modules in the current folder must not shadow the modules that the process imports.
    command = [sys.executable, "-P", "-m", "sef.simulator.server", "--state", str(state)]
    if pending_seconds is not None:
        command += ["--pending-seconds", str(pending_seconds)]
    if spot_prices is not None:
        command += ["--spot-prices", str(spot_prices.resolve())]
    home = str(Path(sef.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    port = _last_port(state)
    if port is not None:
        command += ["--port", str(port)]
    (state / INFO_FILE).unlink(missing_ok=True)
    with (state / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        )
    _started[:] = [child for child in _started if child.poll() is None] + [process]
    deadline = time.monotonic() + START_SECONDS
    while (simulation := find_running(state)) is None:
        if process.poll() is not None:
            raise SimulationError(_last_line(state / LOG_FILE))
        if time.monotonic() > deadline:
            process.kill()
            raise SimulationError(
                f"the simulated EC2 did not start within {START_SECONDS:.0f} s; see "
                f"{state / LOG_FILE}"
            )
        time.sleep(_POLL_SECONDS)
    return simulation


def _last_port(state: Path) -> int | None:
    """Return the last port of the simulator if it is free, so that a backend can keep using it."""
    try:
        port = int(json.loads((state / INFO_FILE).read_text())["port"])
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, ValueError, KeyError):
        return None
    return port


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"the simulated EC2 ended without a message; see {log}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
