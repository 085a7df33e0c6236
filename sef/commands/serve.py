"""`sef serve`: check the settings, print the banner, and run the HTTP server."""

import errno
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server import Server

from sef.cloud.connect import check_cloud, on_demand_prices
from sef.commands.init_db import create_tables
from sef.config import Settings, variable
from sef.db.connections import driver_is_slow
from sef.errors import ConfigurationError
from sef.notifications.channels import channels
from sef.simulator.process import simulator_for_server
from sef.terms import plural

STOP_SECONDS = 15
"""Time that a worker has to answer its requests before it is killed; some calls take 8 s."""


def serve(
    settings: Settings, load_app: Callable[[], Any], *, environment: Mapping[str, str]
) -> None:
    """Serve until a signal stops the server.

    Args:
        load_app: builds the WSGI application in a worker process.
        environment: variables for the worker processes, which read their settings from there.

    Raises:
        ConfigurationError: a setting cannot be used, or the port is in use.
        SchemaMismatch: the database has tables of SEF's names that are not SEF's.
        SimulationError: the simulated EC2 cannot be started.
    """
    _check_port_is_free(settings.host, settings.port)
    created = create_tables(settings)
    os.environ.update(environment)
    check_cloud(settings)
    channels(settings)
    on_demand_prices(settings)
    with _simulator(settings):
        _print_banner(settings, created)
        server = Server(
            "sef",
            interface=Interfaces.WSGI,
            address=settings.host,
            port=settings.port,
            workers=settings.workers,
            blocking_threads=settings.threads,
            backpressure=max(128, 4 * settings.threads),
            respawn_failed_workers=True,
            workers_kill_timeout=STOP_SECONDS,
            log_level=LogLevels.error,
        )
        # Granian would import a target by name, and look for it in the current folder first.
        server.serve(target_loader=load_app, wrap_loader=False)
    click.echo("SEF has stopped.")


def _check_port_is_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = f"{host}:{port} is in use; choose another with --port or SEF_PORT"
            elif error.errno in (errno.EACCES, errno.EPERM):
                message = f"cannot listen on {host}:{port}: {error.strerror}; choose another port"
            else:
                message = (
                    f"cannot listen on {host}:{port}: {error.strerror}; "
                    "choose another address with --host or SEF_HOST"
                )
            raise ConfigurationError(message) from None


def _simulator(settings: Settings) -> AbstractContextManager[None]:
    """Return a context in which the simulated EC2 runs, if the settings use it."""
    if settings.cloud != "simulated":
        return nullcontext()
    return simulator_for_server(settings.var, pending_seconds=settings.simulator_pending_seconds)


def _print_banner(settings: Settings, created: list[str]) -> None:
    cloud = "Amazon EC2" if settings.cloud == "aws" else f"a simulated EC2 in {settings.var}/"
    base = settings.base_url
    click.echo(f"SEF serves on {base}, with {settings.shown_database} and {cloud}.")
    if created:
        click.echo(f"Created {plural(len(created), 'table')}.")
    if driver_is_slow() and not settings.is_embedded:
        click.echo("mysql-connector-python lacks its C extension and runs at half the speed.")
    environment = "".join(
        f"{variable(name)}={shlex.quote(str(value))} "
        for name, value in (("port", settings.port), ("var", settings.var))
        if value != Settings.model_fields[name].default
    )
    report = (
        '{"spot_price": 0.0456, "pool_id": "m5.large.us-east-1a", "timestamp": \'$(date +%s)\'}'
    )
    click.echo("Press Ctrl-C to stop. In another terminal, try:")
    click.echo(f"  curl -X POST {base}/api/agents/web-1/pricing -d '{report}'")
    if settings.cloud == "simulated":
        click.echo(f"  {environment}{_command()} simulate interrupt web-1")
    click.echo(f"  curl {base}/api/agents/web-1/sef-status")


def _command() -> str:
    """Return the command that runs this command line again from the current folder."""
    if Path(sys.argv[0]).name == "backend.py":
        return f"{os.path.relpath(sys.executable)} backend.py"
    return "sef" if shutil.which("sef") == sys.argv[0] else os.path.relpath(sys.argv[0])
