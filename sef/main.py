"""SEF's composition root: the Flask application and the command line.

`backend.py` in a checkout and the installed command `sef` both run it. Nothing in `sef` imports it.
"""

import ctypes
import gc
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import click
from flask import Flask
from flask_cors import CORS

from sef import __version__, config, failpoints
from sef.commands import adopt as adopt_command
from sef.commands import init_db as init_db_command
from sef.commands import notify as notify_command
from sef.commands import serve as serve_command
from sef.commands.import_file import import_file, open_checkpoint, print_result
from sef.commands.simulate import simulate
from sef.config import Settings
from sef.db.database import SchemaMismatch
from sef.errors import ConfigurationError, Refused, SefError
from sef.jobs import start_jobs
from sef.notifications.channels import channels
from sef.simulator.client import SimulationError
from sef.web.errors import register_fallback_handlers
from sef.web.failover import failover_blueprint
from sef.web.fast_path import ReportFastPath
from sef.web.fleet import fleet_blueprint
from sef.web.health import health_blueprint
from sef.web.prices import prices_blueprint
from sef.web.request_parsing import MAX_BODY
from smart_emergency_fallback import SmartEmergencyFallback, integrate_with_backend

log = logging.getLogger("sef")

PR_SET_PDEATHSIG = 1
"""Option of prctl(2): the signal that a process gets when its parent dies."""
STARTUP_ERRORS = (ConfigurationError, SchemaMismatch, SimulationError)
"""Errors of a setting or of the machine, which end the command with one line."""

# The application


def create_app(settings: Settings | None = None) -> Flask:
    """Build the application, with its periodic jobs unless the settings turn them off."""
    settings = settings or config.load()
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    # urllib3's debug messages contain the paths of webhooks, which are secrets.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    sef = SmartEmergencyFallback(settings.database, settings=settings)
    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.url_map.merge_slashes = False  # an id may contain several slashes in a row
    register_fallback_handlers(app)
    app.register_blueprint(fleet_blueprint(sef))
    app.register_blueprint(prices_blueprint(sef))
    app.register_blueprint(failover_blueprint(sef))
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


def create_worker_app() -> Flask:
    """Build the application in a Granian worker, which only the master process stops.

    Ctrl-C would reach the worker too, directly followed by the master's SIGTERM, and two signals at
    once can lock up Granian's handler; so the worker blocks SIGINT. If the master is killed, the
    kernel terminates its workers.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until Granian sets its own handler
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    failpoints.enable_from_env()
    app = create_app()
    gc.freeze()  # the objects of the start are kept, so garbage collections need not scan them
    return app


def _check_jobs(app: Flask) -> None:
    jobs = app.extensions.get("sef_jobs")
    if jobs is not None:
        jobs.check()


# The command line


def run() -> None:
    """Run the command line; end with one line if a setting or the machine prevents the start."""
    try:
        main()
    except STARTUP_ERRORS as error:
        sys.exit(f"SEF: {error}")


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="SEF %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """SEF keeps services alive on EC2 Spot. Without a command it serves.

    Every setting is an environment variable SEF_...; docs/configuration.md lists them.
    """
    if context.invoked_subcommand is None:
        context.invoke(serve)


def _option(name: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return a command line option that overrides the environment variable of a setting.

    Args:
        name: field of `Settings`.
        attributes: further attributes of the option, as click takes them.
    """
    field = Settings.model_fields[name]
    text = f"{field.description}  [{config.variable(name)}; default: {field.default or 'empty'}]"
    return click.option(f"--{name.replace('_', '-')}", name, help=text, **attributes)


@main.command()
@_option("host")
@_option("port", type=int)
@_option("workers", type=int)
@_option("database_url")
@_option("cloud", type=click.Choice(["simulated", "aws"]))
def serve(**options: Any) -> None:
    """Serve the API."""
    environment = {
        config.variable(name): str(value) for name, value in options.items() if value is not None
    }
    serve_command.serve(config.load(**options), create_worker_app, environment=environment)


@main.command("init-db")
@_option("database_url")
def init_db(**options: Any) -> None:
    """Create the tables that are missing; no table is ever dropped."""
    init_db_command.init_db(config.load(**options))


@main.command(short_help="Show or test notifications.")
@click.option("--test", is_flag=True, help="Send a test message to every channel now.")
@_option("database_url")
def notify(test: bool, **options: Any) -> None:
    """Show the outbox of notifications, or test the channels of SEF_NOTIFICATION_URLS."""
    settings = config.load(**options)
    if test and not channels(settings):
        raise ConfigurationError("SEF_NOTIFICATION_URLS is empty; set it to test a channel")
    init_db_command.create_tables(settings)
    sef = SmartEmergencyFallback(settings.database, settings=settings)
    try:
        if not test:
            notify_command.print_outbox(sef.outbox())
            return
        errors = sef.test_notifications()
        notify_command.print_test(errors)
        if any(errors.values()):
            sys.exit(1)
    finally:
        sef.close()


@main.command(short_help="Adopt instances after the database was restored.")
@click.option("--agent", "agent_id", help="Agent of --instance.")
@click.option("--instance", "instance_id", help="Instance to adopt.")
@click.option(
    "--as",
    "role",
    type=click.Choice(["primary", "standby", "surplus"]),
    help="Use of --instance. surplus: SEF terminates it. Default: primary, if none runs.",
)
@click.option("--yes", is_flag=True, help="Adopt; without it, the command only lists.")
@click.option("--dry-run", is_flag=True, help="Only list, as without --yes.")
@_option("database_url")
@_option("cloud", type=click.Choice(["simulated", "aws"]))
def adopt(
    agent_id: str | None,
    instance_id: str | None,
    role: str | None,
    yes: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """List the instances that SEF launched and the database does not know, or adopt them.

    They are there after the database was restored from a backup. With --yes, SEF adopts the only
    such instance of each agent whose primary does not run, as the primary; with --agent and
    --instance, that instance. Other instances need --agent, --instance and --as. Exit code 1:
    some instances still need a decision.
    """
    if (agent_id is None) != (instance_id is None) or (role is not None and instance_id is None):
        raise click.UsageError("--agent and --instance belong together, and --as needs both.")
    settings = config.load(**options)
    init_db_command.create_tables(settings)
    sef = SmartEmergencyFallback(settings.database, settings=settings)
    try:
        if agent_id is not None and instance_id is not None and yes and not dry_run:
            click.echo(sef.adopt_instance(agent_id, instance_id, role)["message"])
            return
        unknown = [
            entry
            for entry in sef.unknown_instances()
            if instance_id in (None, entry["instance_id"])
        ]
        if yes and not dry_run:
            undecided = adopt_command.adopt_undisputed(unknown, sef.adopt_instance)
        else:
            adopt_command.print_unknown(unknown)
            undecided = len(unknown)
    except SefError as error:
        raise click.ClickException(error.message) from error
    except Refused as error:
        raise click.ClickException(error.message) from error
    finally:
        sef.close()
    if undecided:
        sys.exit(1)


@main.command("import", short_help="Import pricing reports from a CSV or NDJSON file.")
@_option("database_url")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--agent", "agent_id", help="Agent of the lines without an agent_id.")
@click.option("--pool", "pool_id", help="Pool of the lines without a pool_id.")
@click.option("--restart", is_flag=True, help="Start over instead of resuming a stopped import.")
def import_(
    file: str, agent_id: str | None, pool_id: str | None, restart: bool, **options: Any
) -> None:
    """Store the pricing reports of FILE, a file of any size; - is standard input.

    FILE is NDJSON, a report on each line as for POST /api/pricing/batch, or CSV whose first line
    names the columns: agent_id, pool_id, timestamp and spot_price, optionally is_replica and
    instance_id; other columns are ignored. Either may be compressed by gzip.

    A report that is already stored changes nothing. An import that was stopped resumes when it is
    started again. Rejected lines are listed at the end, with exit code 1.
    """
    settings = config.load(**options)
    # An import may open thousands of gaps. The history keeps them, so the log leaves them out.
    log.setLevel(logging.ERROR)
    init_db_command.create_tables(settings)
    fields = {"agent_id": agent_id, "pool_id": pool_id}
    defaults = {field: value for field, value in fields.items() if value is not None}
    checkpoint = open_checkpoint(settings, file, defaults, restart=restart)
    sef = SmartEmergencyFallback(settings.database, settings=settings)
    try:
        result = import_file(file, sef.process_batch, defaults=defaults, checkpoint=checkpoint)
    except SefError as error:
        message = f"{error.message} Run the same command again to resume."
        raise click.ClickException(message) from error
    except KeyboardInterrupt:
        raise click.ClickException("Stopped. Run the same command again to resume.") from None
    finally:
        sef.close()
    print_result(result)
    if result.rejected_total:
        sys.exit(1)


main.add_command(simulate)
