"""`sef simulate`: change the simulated EC2, to watch how SEF reacts."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import requests

from sef import config
from sef.cloud.connect import SIMULATED_TEMPLATE, connect
from sef.cloud.ec2 import Ec2
from sef.cloud.errors import CloudError
from sef.cloud.launch_parameters import launch_parameters
from sef.cloud.likeness import LaunchConfiguration
from sef.config import Settings
from sef.simulator.client import Simulation, SimulationError
from sef.simulator.process import ensure_running
from sef.terms import parse_pool

HTTP_SECONDS = 30
"""Time limit for an answer of the backend."""
TIMEOUT_SECONDS = 60
"""Maximum time that `interrupt` waits for a standby, and then for the new primary."""
DEFAULT_POOL = "m5.large.us-east-1a"
"""Pool of an instance that a command launches."""


@click.group()
def simulate() -> None:
    """Change the simulated EC2, to watch how SEF reacts."""


@simulate.command()
@click.argument("agent")
@click.option("--pool", default=DEFAULT_POOL, show_default=True, help="Pool to launch in.")
def agent(agent: str, pool: str) -> None:
    """Give AGENT a simulated instance."""
    settings, _ = _simulated()
    with _backend(settings) as api:
        instance_id = _launch(settings, pool)
        _register(api, agent, instance_id, pool)
    click.echo(f"{agent} runs on {instance_id} in {pool}")


@simulate.command()
@click.argument("agent")
@click.option("--no-rebalance", is_flag=True, help="Send no rebalance recommendation.")
def interrupt(agent: str, *, no_rebalance: bool) -> None:
    """Interrupt AGENT's instance, as AWS does.

    Send a rebalance recommendation, then a termination notice, then terminate the instance. An
    agent that has no instance, or does not exist, gets an instance first.
    """
    settings, simulation = _simulated()
    with _backend(settings) as api:
        instance_id = _instance_of(api, settings, agent)
        if not no_rebalance:
            _signal(api, agent, instance_id, "rebalance-recommendation")
            _wait_for_standby(api, agent)
        _signal(api, agent, instance_id, "termination-notice")
        new_primary = _wait_for_primary(api, agent, instance_id)
        _show_promotion(api, agent, instance_id)
        simulation.terminate(instance_id)
        click.echo(f"   AWS terminates {instance_id}; {agent} runs on {new_primary}")
        click.echo(f"Show the events: curl {api.base}/api/agents/{agent}/events")


@simulate.command()
@click.argument("pool")
@click.option(
    "--capacity/--no-capacity", default=None, help="Give the pool spot capacity, or none."
)
@click.option("--price", type=float, help="Spot price, in USD per hour.")
def pool(pool: str, *, capacity: bool | None, price: float | None) -> None:
    """Set the capacity or the price of POOL, such as m5.large.us-east-1a."""
    if capacity is None and price is None:
        raise click.UsageError("Give --capacity, --no-capacity or --price.")
    _, simulation = _simulated()
    simulation.set_pool(pool, capacity=capacity, price=price)
    click.echo(f"Changed {pool}.")


@simulate.command()
def instances() -> None:
    """List the instances of the simulated EC2."""
    _, simulation = _simulated()
    click.echo(f"{'INSTANCE':<20} {'STATE':<14} {'MARKET':<9} {'POOL':<24} LAUNCHED FOR")
    for instance in simulation.instances():
        columns = f"{instance.id:<20} {instance.state:<14} {instance.market:<9} {instance.pool:<24}"
        click.echo(f"{columns} {instance.tags.get('sef:agent', '-')}")


@simulate.command(short_help="Print the URL of the simulated EC2.")
def endpoint() -> None:
    """Print the URL of the simulated EC2, for boto3 and the aws command."""
    _, simulation = _simulated()
    click.echo(simulation.endpoint)


@simulate.command()
def stop() -> None:
    """Stop the simulated EC2; its state is kept for the next start."""
    _, simulation = _simulated()
    simulation.stop()
    click.echo("The simulated EC2 has stopped.")


class _Api:
    """The backend's HTTP API, as an agent sees it."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._http = requests.Session()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        response = self._http.request(method, self.base + path, json=body, timeout=HTTP_SECONDS)
        answer: dict[str, Any] = response.json()
        if response.status_code == 404:
            return {}
        if not response.ok:
            raise click.ClickException(f"The backend answered: {answer['message']}")
        return answer


@contextmanager
def _backend(settings: Settings) -> Iterator[_Api]:
    base = settings.base_url
    try:
        api = _Api(base)
        api.ask("GET", "/healthz")
        yield api
    except requests.RequestException as error:
        raise click.ClickException(
            f"No backend answers at {base}. Start it with `sef serve` or `make run`, or set "
            "SEF_PORT to its port."
        ) from error


def _simulated() -> tuple[Settings, Simulation]:
    settings = config.load()
    if settings.cloud != "simulated":
        raise click.ClickException("SEF_CLOUD is aws; `simulate` changes the simulated EC2 only.")
    try:
        return settings, ensure_running(settings.var)
    except SimulationError as error:
        raise click.ClickException(str(error)) from error


def _launch(settings: Settings, pool_id: str) -> str:
    pool = parse_pool(pool_id)
    if pool is None:
        raise click.ClickException(f"Invalid pool {pool_id}; expected e.g. {DEFAULT_POOL}")
    _, clients = connect(settings)
    source = LaunchConfiguration(
        "the default template",
        {"LaunchTemplate": {"LaunchTemplateName": SIMULATED_TEMPLATE, "Version": "$Default"}},
        pool.instance_type,
    )
    parameters = launch_parameters(source, pool, spot=True, tags={"Name": "simulated agent"})
    try:
        return Ec2(clients.ec2).run(parameters, f"simulate-{time.time_ns()}")
    except CloudError as error:
        raise click.ClickException(str(error)) from error


def _register(api: _Api, agent: str, instance_id: str, pool_id: str) -> None:
    body = {"instance_id": instance_id, "pool_id": pool_id}
    for warning in api.ask("PUT", f"/api/agents/{agent}", body)["warnings"]:
        click.echo(warning)


def _instance_of(api: _Api, settings: Settings, agent: str) -> str:
    known = api.ask("GET", f"/api/agents/{agent}/sef-status")
    instance_id = known.get("agent", {}).get("instance_id")
    if instance_id is None:
        instance_id = _launch(settings, DEFAULT_POOL)
        _register(api, agent, instance_id, DEFAULT_POOL)
        click.echo(f"{agent} had no instance; launched {instance_id} in {DEFAULT_POOL} for it")
    return str(instance_id)


def _signal(api: _Api, agent: str, instance_id: str, signal_type: str) -> None:
    now = datetime.now(UTC)
    body: dict[str, Any] = {
        "signal_type": signal_type,
        "timestamp": now.timestamp(),
        "instance_id": instance_id,
    }
    if signal_type == "termination-notice":
        body["termination_time"] = (now + timedelta(seconds=120)).isoformat()
    click.echo(f"-> {signal_type} for {instance_id}")
    answer = api.ask("POST", f"/api/agents/{agent}/interruption", body)
    click.echo(f"   {answer['action']}: {answer['message']}")


def _show_promotion(api: _Api, agent: str, instance_id: str) -> None:
    events = api.ask("GET", f"/api/agents/{agent}/events?limit=20")["events"]
    for event in events:
        details = event["metadata"] or {}
        is_failover = event["event_type"] == "failover_completed"
        if is_failover and details.get("old_instance_id") == instance_id:
            click.echo(f"   {event['message'].removeprefix('SEF: ')}")
            return


def _wait_for_standby(api: _Api, agent: str) -> None:
    click.echo(f"   waiting up to {TIMEOUT_SECONDS} s for a standby")
    for status in _statuses(api, agent):
        standby, incident = status["replica"], status["incident"]
        if standby and standby["status"] == "ready":
            click.echo(f"   standby {standby['instance_id']} is ready in {standby['pool_id']}")
            return
        if incident is None or incident["goal"] == "monitor":
            return


def _wait_for_primary(api: _Api, agent: str, instance_id: str) -> str:
    for status in _statuses(api, agent):
        primary = status["agent"]["instance_id"]
        if primary != instance_id:
            return str(primary)
    raise click.ClickException(
        f"{agent} has no new primary after {TIMEOUT_SECONDS} s. SEF keeps trying. "
        f"Show the reason: curl {api.base}/api/agents/{agent}/sef-status"
    )


def _statuses(api: _Api, agent: str) -> Iterator[dict[str, Any]]:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        yield api.ask("GET", f"/api/agents/{agent}/sef-status")
        time.sleep(0.2)
