"""SEF's composition root: the Flask application and the command line.

`backend.py` in a checkout and the installed command `sef` both run it. Nothing in `sef` imports it.
"""

import ctypes
import errno
import gc
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
from flask import Flask
from flask_cors import CORS
from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server import Server
from sqlalchemy.exc import DBAPIError

from sef import __version__, config, failpoints
from sef.cloud.connect import check_cloud, on_demand_prices
from sef.commands.import_file import STDIN, Checkpoint, import_file, print_result
from sef.commands.simulate import simulate
from sef.config import Settings
from sef.db.connections import driver_is_slow
from sef.db.database import Database, SchemaMismatch
from sef.db.leases import deployment_name
from sef.errors import ConfigurationError, SefError, Unavailable
from sef.jobs import start_jobs
from sef.notifications.channels import channels
from sef.simulator.client import SimulationError
from sef.simulator.process import simulator_for_server
from sef.terms import plural
from sef.web.errors import register_fallback_handlers
from sef.web.fast_path import ReportFastPath
from sef.web.fleet import agents_blueprint
from sef.web.health import health_blueprint
from sef.web.request_parsing import MAX_BODY
from smart_emergency_fallback import SmartEmergencyFallback, integrate_with_backend

log = logging.getLogger("sef")

PR_SET_PDEATHSIG = 1  # of prctl(2)
STOP_SECONDS = 15
"""What a worker has to answer what it has taken, before it is killed; some calls wait for 8."""

STARTUP_ERRORS = (ConfigurationError, SchemaMismatch, SimulationError)


def create_app(settings: Settings | None = None) -> Flask:
    """Build the application, with its periodic jobs unless the settings turn them off."""
    settings = settings or config.load()
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    # Its debug messages hold the paths of webhooks, which are secrets.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    sef = SmartEmergencyFallback(settings.database, settings=settings)
    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.url_map.merge_slashes = False  # an id may have them
    register_fallback_handlers(app)
    app.register_blueprint(agents_blueprint(sef))
    app.register_blueprint(health_blueprint(sef, lambda: _check_jobs(app)))
    integrate_with_backend(app, sef)
    origins = config.comma_separated(settings.cors_origins)
    if origins:
        CORS(app, resources={"/api/*": {"origins": list(origins)}})
    app.wsgi_app = ReportFastPath(app.wsgi_app, sef)  # type: ignore[method-assign]
    app.extensions["sef"] = sef
    if settings.run_jobs:
        app.extensions["sef_jobs"] = start_jobs(sef, settings)
    return app


def _check_jobs(app: Flask) -> None:
    jobs = app.extensions.get("sef_jobs")
    if jobs is not None:
        jobs.check()


def create_worker_app() -> Flask:
    """The application in a Granian worker, which only the master stops.

    Ctrl-C would reach the worker too, and the master's SIGTERM on its heels: two signals at once
    can lock up Granian's handler. A master that is killed takes its workers with it.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until Granian sets its own
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    failpoints.enable_from_env()
    app = create_app()
    gc.freeze()  # what is there now stays: a collection need not look at it each time
    return app


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="SEF %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """SEF keeps services alive on EC2 Spot. Without a command it serves.

    Every setting is an environment variable SEF_...; docs/configuration.md lists them.
    """
    if context.invoked_subcommand is None:
        context.invoke(serve)


def _option(name: str, **settings: Any) -> Callable[[Any], Any]:
    """A command line option for a setting, which stands above its environment variable."""
    field = Settings.model_fields[name]
    text = f"{field.description}  [{config.variable(name)}; default: {field.default or 'empty'}]"
    return click.option(f"--{name.replace('_', '-')}", name, help=text, **settings)


@main.command()
@_option("host")
@_option("port", type=int)
@_option("workers", type=int)
@_option("database_url")
@_option("cloud", type=click.Choice(["simulated", "aws"]))
def serve(**options: Any) -> None:
    """Serve the API."""
    settings = config.load(**options)
    _check_port_is_free(settings.host, settings.port)
    created = _create_tables(settings)
    # The worker processes read their settings from the environment.
    for name, value in options.items():
        if value is not None:
            os.environ[config.variable(name)] = str(value)
    check_cloud(settings)
    channels(settings)
    on_demand_prices(settings)
    with _cloud(settings):
        _say_hello(settings, created)
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
        server.serve(target_loader=create_worker_app, wrap_loader=False)
    click.echo("SEF has stopped.")


@main.command("init-db")
@_option("database_url")
def init_db(**options: Any) -> None:
    """Create the tables that are missing; nothing is ever dropped."""
    settings = config.load(**options)
    created = _create_tables(settings)
    made = ", ".join(created) if created else "none, all were there"
    click.echo(f"{settings.shown_database}: created {made}")


@main.command()
@click.option("--test", is_flag=True, help="Send a message to every channel now.")
@_option("database_url")
def notify(test: bool, **options: Any) -> None:
    """Show the outbox of notifications, or test the channels of SEF_NOTIFICATION_URLS."""
    settings = config.load(**options)
    if test and not channels(settings):
        raise ConfigurationError("SEF_NOTIFICATION_URLS is empty: there is no channel to test")
    _create_tables(settings)
    sef = SmartEmergencyFallback(settings.database, settings=settings)
    try:
        if test:
            _test_channels(sef)
        else:
            _show_outbox(sef)
    finally:
        sef.close()


def _test_channels(sef: SmartEmergencyFallback) -> None:
    told = sef.test_notifications()
    for name, error in told.items():
        click.echo(f"{name}: {'sent' if error is None else f'not sent: {error}'}")
    if any(told.values()):
        sys.exit(1)


def _show_outbox(sef: SmartEmergencyFallback) -> None:
    outbox = sef.outbox()
    click.echo("{pending} pending, {sent} sent, {failed} failed".format_map(outbox))
    for row in outbox["last_failed"]:
        click.echo("{channel}: {title}, {kind}: {error}".format_map(row))


@main.command("import")
@_option("database_url")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--agent", "agent_id", help="The agent of lines that name none.")
@click.option("--pool", "pool_id", help="The pool of lines that name none.")
@click.option("--restart", is_flag=True, help="Begin anew where an earlier import has stopped.")
def import_(
    file: str, agent_id: str | None, pool_id: str | None, restart: bool, **options: Any
) -> None:
    """Store the pricing reports of FILE, as many as there are; - is standard input.

    FILE is NDJSON, a report on each line as for POST /api/pricing/batch, or CSV whose first line
    names the columns: agent_id, pool_id, timestamp and spot_price, optionally is_replica and
    instance_id; others are left out of account. Either may be compressed by gzip.

    A report that is stored already changes nothing. An import that was stopped goes on where it
    was when it is started again. Refused lines are listed at the end, with exit code 1.
    """
    settings = config.load(**options)
    # A backfill may open gaps by the thousand; they are in the history all the same.
    log.setLevel(logging.ERROR)
    _create_tables(settings)
    defaults = {"agent_id": agent_id, "pool_id": pool_id}
    given = {field: value for field, value in defaults.items() if value is not None}
    database = Database(settings.database)
    identity = {"sef": database.write(deployment_name), "defaults": given}
    database.dispose()
    checkpoint = None
    if file != STDIN:
        checkpoint = Checkpoint(settings.var / "imports", Path(file), identity)
        if restart:
            checkpoint.remove()
    sef = SmartEmergencyFallback(settings.database, settings=settings)
    try:
        tally = import_file(file, sef.process_batch, defaults=given, checkpoint=checkpoint)
    except SefError as error:
        raise click.ClickException(f"{error.message} Start it again to go on.") from error
    except KeyboardInterrupt:
        raise click.ClickException("Stopped. Start it again to go on.") from None
    finally:
        sef.close()
    print_result(tally)
    if tally.rejected_total:
        sys.exit(1)


main.add_command(simulate)


def _cloud(settings: Settings) -> AbstractContextManager[None]:
    """The simulated EC2 while it is needed, if it is to be used."""
    if settings.cloud != "simulated":
        return nullcontext()
    return simulator_for_server(settings.var, pending_seconds=settings.simulator_pending_seconds)


def _say_hello(settings: Settings, created: list[str]) -> None:
    cloud = "Amazon EC2" if settings.cloud == "aws" else f"a simulated EC2 in {settings.var}/"
    base = settings.base_url
    click.echo(f"SEF serves on {base}, with {settings.shown_database} and {cloud}.")
    if created:
        click.echo(f"Created {plural(len(created), 'table')}.")
    if driver_is_slow() and not settings.is_embedded:
        click.echo("mysql-connector-python runs without its C extension, at half the speed.")
    where = "".join(
        f"{config.variable(name)}={shlex.quote(str(value))} "
        for name, value in (("port", settings.port), ("var", settings.var))
        if value != Settings.model_fields[name].default
    )
    report = (
        '{"spot_price": 0.0456, "pool_id": "m5.large.us-east-1a", "timestamp": \'$(date +%s)\'}'
    )
    click.echo("Ctrl-C stops it. In another terminal, try:")
    click.echo(f"  curl -X POST {base}/api/agents/web-1/pricing -d '{report}'")
    if settings.cloud == "simulated":
        click.echo(f"  {where}{_command()} simulate interrupt web-1")
    click.echo(f"  curl {base}/api/agents/web-1/sef-status")


def _command() -> str:
    """Return the command that reaches this command line again, from the current folder."""
    if Path(sys.argv[0]).name == "backend.py":
        return f"{os.path.relpath(sys.executable)} backend.py"
    return "sef" if shutil.which("sef") == sys.argv[0] else os.path.relpath(sys.argv[0])


def _create_tables(settings: Settings) -> list[str]:
    try:
        database = Database(settings.database)
        created = database.create_tables()
        database.dispose()
        return created
    except (Unavailable, DBAPIError, OSError) as error:
        cause = error.__cause__ if isinstance(error, Unavailable) else error
        why = cause.orig if isinstance(cause, DBAPIError) else error
        raise ConfigurationError(f"cannot use {settings.shown_database}: {why}") from error


def _check_port_is_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
            raise ConfigurationError(
                f"{host}:{port} {reason}; choose another with --port or SEF_PORT"
            ) from None


def run() -> None:
    """Run the command line; end with one line if a setting or the machine prevents the start."""
    try:
        main()
    except STARTUP_ERRORS as error:
        sys.exit(f"SEF: {error}")
