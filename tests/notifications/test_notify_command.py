"""`python backend.py notify`: trying the channels, and looking at the outbox."""

import os
import subprocess
import sys
from pathlib import Path

from tests.private_server import free_port
from tests.waiting import LIMIT
from tests.web.server import ROOT
from tests.webhook_receiver import Receiver


def notify(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "backend.py", "notify", *arguments],
        cwd=ROOT,
        env=os.environ | {"SEF_VAR": str(folder)} | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def test_each_channel_says_whether_it_went(tmp_path: Path) -> None:
    receiver = Receiver("a-secret-path")
    dead = f"127.0.0.1:{free_port()}"
    try:
        done = notify(
            tmp_path,
            "--test",
            SEF_NOTIFICATION_URLS=f"{receiver.url.replace('http', 'json')} json://{dead}/a-secret-path",
            SEF_ALLOWED_PRIVATE_NETWORKS="127.0.0.0/8",
        )
    finally:
        receiver.stop()
    first, second = done.stdout.splitlines()
    assert first == f"json://127.0.0.1:{receiver.port}: sent"
    assert second.startswith(f"json://{dead}: not sent: ")
    assert (done.returncode, done.stderr) == (1, "")
    assert "a-secret-path" not in done.stdout
    ((_, _, body),) = receiver.got
    assert body["title"] == "[SEF] test"


def test_all_that_went_is_success(tmp_path: Path) -> None:
    receiver = Receiver()
    try:
        done = notify(
            tmp_path,
            "--test",
            SEF_NOTIFICATION_URLS=receiver.url.replace("http", "json"),
            SEF_ALLOWED_PRIVATE_NETWORKS="127.0.0.0/8",
        )
    finally:
        receiver.stop()
    assert (done.returncode, len(receiver.got)) == (0, 1)


def test_without_channels_there_is_nothing_to_test(tmp_path: Path) -> None:
    done = notify(tmp_path, "--test")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "SEF: SEF_NOTIFICATION_URLS is empty: there is no channel to test\n"


def test_it_shows_the_outbox(tmp_path: Path) -> None:
    done = notify(tmp_path)
    assert (done.returncode, done.stdout) == (0, "0 pending, 0 sent, 0 failed\n")
