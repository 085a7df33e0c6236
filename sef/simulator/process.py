"""The simulated EC2 as seen from outside: find or start it, and tell it what to do.

Nothing of moto is imported here; the simulated EC2 is a process of its own (`sef.simulator.server`)
that lives on when the one that started it ends.
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
"""There while it is a backend's, which holds a lock on it and stops it in the end."""

START_SECONDS = 120.0

_POLL_SECONDS = 0.02

_started: list[subprocess.Popen[bytes]] = []
"""Kept, so that one that has ended is collected at the next start."""


def ensure_running(
    state_dir: Path, *, pending_seconds: float | None = None, spot_prices: Path | None = None
) -> Simulation:
    """The simulated EC2 of a folder: the one that runs already, or a new one, with its old state.

    Safe to be called by several processes at once.

    Args:
        state_dir: where its state is, and its log; made if it is not there.
        pending_seconds: how long an instance is `pending`; None leaves it as it was.
        spot_prices: CSV file `timestamp,pool,price`; of no effect on one that runs already.

    Raises:
        SimulationError: it cannot be started.
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
    """The simulated EC2 of a folder, for as long as a backend serves.

    One that runs already stays with whoever started it. If that was a backend which was killed,
    it is ours now: SIGKILL leaves it as Amazon's would be left, to end in order takes it along.
    """
    state = state_dir.resolve()
    state.mkdir(parents=True, exist_ok=True)
    owner = state / OWNER_FILE
    if find_running(state) is not None and not owner.exists():
        yield
        return
    with owner.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its holder's death gives it back
        except BlockingIOError:
            yield  # it is another backend's, which lives
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
    """The simulated EC2 of a folder, if it runs."""
    state = state_dir.resolve()
    try:
        told = json.loads((state / INFO_FILE).read_text())
        simulation = Simulation(told["endpoint"])
        health = simulation.health()
    except (FileNotFoundError, ValueError, KeyError, SimulationError):
        return None
    # The port of one that was killed may be another's by now.
    return simulation if health.get("state") == str(state) else None


def _start(state: Path, pending_seconds: float | None, spot_prices: Path | None) -> Simulation:
    # -P: modules of the current folder do not stand in for those that the process imports.
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
    """The port it had, if that is free: a backend that still runs finds it again."""
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
    return lines[-1] if lines else f"the simulated EC2 ended without a word; see {log}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
