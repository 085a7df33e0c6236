"""Failpoints: around each COMMIT and each remote call, and nowhere in normal use."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert

from sef import failpoints
from sef.cloud.ec2 import Ec2
from sef.cloud.errors import CloudError
from sef.config import Settings
from sef.db.database import Database
from sef.db.tables import leases
from sef.notifications.channels import DeliveryFailed, channels
from sef.notifications.outbound import Outbound, TransientHttpError
from sef.simulator.client import Simulation
from sef.terms import NotificationKind, NotificationSeverity
from tests.db.rows import row_counts
from tests.webhook_receiver import Receiver

ROOT = Path(__file__).resolve().parent.parent


class Crash(BaseException):
    pass


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(failpoints, "reached", names.append)
    return names


def take(connection: Connection, name: str) -> None:
    at = datetime(2024, 1, 1, tzinfo=UTC)
    row = {"name": name, "holder": "h", "expires_at": at, "version": 1}
    connection.execute(insert(leases), [row])


class Caller:
    def by_name(self, database: Database) -> None:
        database.write(take, "one")

    def by_function(self, database: Database) -> None:
        def write(connection: Connection) -> None:
            take(connection, "other")

        database.write(write)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.create_tables()
    yield database
    database.dispose()


def test_a_transaction_has_two_failpoints_named_after_its_function(
    database: Database, reached: list[str]
) -> None:
    Caller().by_name(database)
    Caller().by_function(database)
    here = __name__
    assert reached == [
        f"{here}.take:before-commit",
        f"{here}.take:after-commit",
        f"{here}.Caller.by_function.write:before-commit",
        f"{here}.Caller.by_function.write:after-commit",
    ]


@pytest.mark.parametrize(("boundary", "rows"), [("before-commit", 0), ("after-commit", 1)])
def test_the_commit_is_between_the_two_failpoints(
    database: Database,
    database_url: str,
    boundary: str,
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(name: str) -> None:
        if name.endswith(boundary):
            raise Crash

    monkeypatch.setattr(failpoints, "reached", crash)
    with pytest.raises(Crash):
        Caller().by_name(database)
    assert row_counts(database_url)["leases"] == rows


def test_a_call_to_ec2_has_two_failpoints_also_if_ec2_refuses_it(
    simulation: Simulation, reached: list[str]
) -> None:
    ec2 = Ec2.connect(region="us-east-1", endpoint=simulation.endpoint, simulated=True)
    ec2.instances(["i-1"])
    simulation.add_fault("DescribeAvailabilityZones", error_code="UnauthorizedOperation")
    with pytest.raises(CloudError):
        ec2.zones()
    assert reached == [
        "DescribeInstances:before-call",
        "DescribeInstances:after-call",
        "DescribeAvailabilityZones:before-call",
        "DescribeAvailabilityZones:after-call",
    ]


LOCAL = (ip_network("127.0.0.0/8"),)


@pytest.mark.parametrize("status", [200, 503])
def test_a_webhook_has_two_failpoints_also_if_it_fails(status: int, reached: list[str]) -> None:
    receiver = Receiver()
    receiver.answers = lambda request: _answer(reached, request, status)
    try:
        with nullcontext() if status == 200 else pytest.raises(TransientHttpError):
            Outbound(LOCAL).post_json(receiver.url, {})
    finally:
        receiver.stop()
    assert reached == ["Webhook:before-call", "received", "Webhook:after-call"]


@pytest.mark.parametrize("status", [200, 503])
def test_a_message_has_two_failpoints_also_if_it_fails(status: int, reached: list[str]) -> None:
    receiver = Receiver()
    receiver.answers = lambda request: _answer(reached, request, status)
    settings = Settings(
        notification_urls=f"json://127.0.0.1:{receiver.port}",
        allowed_private_networks="127.0.0.0/8",
    )
    [channel] = channels(settings)
    try:
        with nullcontext() if status == 200 else pytest.raises(DeliveryFailed):
            channel.send(
                "thread", NotificationKind.ALERT, NotificationSeverity.WARNING, "a title", "a body"
            )
    finally:
        receiver.stop()
    assert reached == ["Message:before-call", "received", "Message:after-call"]


def _answer(reached: list[str], request: BaseHTTPRequestHandler, status: int) -> None:
    reached.append("received")
    request.send_response(status)
    request.send_header("Content-Length", "0")
    request.end_headers()


def test_in_normal_use_no_client_is_instrumented(simulation: Simulation) -> None:
    assert failpoints.reached is None

    class Client:
        """A client without events, at which no handler can be registered."""

    assert isinstance(failpoints.instrument(Client()), Client)


PROGRAM = """
import sys
from sef import failpoints
failpoints.enable_from_env()
for name in ["a", "b", "a", "a"]:
    failpoints.reached(name)
    print(name, flush=True)
"""


def test_the_armed_occurrence_kills_the_process_group(tmp_path: Path) -> None:
    armed = tmp_path / "armed"
    armed.write_text("a 2")
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=os.environ | {failpoints.VARIABLE: str(armed)},
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.split() == ["a", "b"]
    assert armed.with_suffix(".reached").read_text().split() == ["a", "b", "a"]
