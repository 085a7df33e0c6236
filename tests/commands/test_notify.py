"""`sef notify`: a test of the channels, and the outbox."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sef.errors import ConfigurationError
from tests.commands.in_process import invoke
from tests.private_server import free_port
from tests.waiting import LIMIT
from tests.web.server import ROOT
from tests.webhook_receiver import Receiver


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"SEF_VAR": str(tmp_path), "SEF_ALLOWED_PRIVATE_NETWORKS": "127.0.0.0/8"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver("a-secret-path")
    yield receiver
    receiver.stop()


def json_url(receiver: Receiver) -> str:
    return receiver.url.replace("http", "json")


def test_each_channel_is_reported_as_sent_or_not_sent(
    environment: dict[str, str], receiver: Receiver
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    urls = f"{json_url(receiver)} json://{dead}/a-secret-path"
    result = invoke("notify", "--test", environment=environment | {"SEF_NOTIFICATION_URLS": urls})
    first, second = result.stdout.splitlines()
    assert first == f"json://127.0.0.1:{receiver.port}: sent"
    assert second.startswith(f"json://{dead}: not sent: ")
    assert (result.exit_code, result.stderr) == (1, "")
    assert "a-secret-path" not in result.stdout
    ((_, _, body),) = receiver.got
    assert body["title"] == "[SEF] test"


def test_the_exit_code_is_0_if_every_channel_succeeds(
    environment: dict[str, str], receiver: Receiver
) -> None:
    urls = json_url(receiver)
    result = invoke("notify", "--test", environment=environment | {"SEF_NOTIFICATION_URLS": urls})
    assert (result.exit_code, len(receiver.got)) == (0, 1)


def test_without_channels_a_test_is_an_error(environment: dict[str, str]) -> None:
    result = invoke("notify", "--test", environment=environment)
    assert (result.exit_code, result.output) == (1, "")
    assert isinstance(result.exception, ConfigurationError)
    assert str(result.exception) == "SEF_NOTIFICATION_URLS is empty; set it to test a channel"


def test_the_process_shows_the_outbox(environment: dict[str, str]) -> None:
    process = subprocess.run(
        [sys.executable, "backend.py", "notify"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (process.returncode, process.stdout) == (0, "0 pending, 0 sent, 0 failed\n")
