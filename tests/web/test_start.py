"""A start that cannot succeed ends with one line that says why."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mariadb import MariaDB
from tests.private_server import free_port
from tests.waiting import LIMIT
from tests.web.server import ROOT


def start(folder: Path, *arguments: str, **environment: str) -> list[str]:
    """What a server that does not start says, line by line."""
    process = subprocess.Popen(
        [sys.executable, "backend.py", "serve", "--port", str(free_port()), *arguments],
        cwd=ROOT,
        env=os.environ | {"SEF_VAR": str(folder / "var")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said, errors = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.terminate()  # it ends its workers; killed, it would leave them behind
        process.communicate()
        pytest.fail("it started")
    assert (process.returncode, said) == (1, "")
    return errors.splitlines()


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("/sys/sef.db", id="a folder that cannot be written"),
        pytest.param("/proc/nowhere/sef.db", id="a folder that cannot be made"),
        pytest.param("{folder}/file/sef.db", id="a folder that is a file"),
        pytest.param("{folder}", id="a file that is a folder"),
        pytest.param("{folder}/file", id="a file that is no database"),
    ],
)
def test_a_sqlite_file_that_cannot_be_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("This is a file of somebody else's, and no database.\n" * 100)
    path = place.format(folder=tmp_path)
    (line,) = start(tmp_path, SEF_DATABASE_URL=f"sqlite:///{path}")
    assert line.startswith("SEF: ")
    assert path in line


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (line,) = start(tmp_path, SEF_VAR=str(tmp_path / "file"))
    assert line.startswith("SEF: ")
    assert str(tmp_path / "file") in line


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    port = free_port()
    url = f"mysql+mysqlconnector://me:secret@127.0.0.1:{port}/sef"
    (line,) = start(tmp_path, "--database-url", url)
    assert line.startswith("SEF: ")
    assert f"127.0.0.1:{port}" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("user", "name"),
    [
        pytest.param("root", "no_such_database", id="a database that is not there"),
        pytest.param("nobody:secret", "mysql", id="a user that is not known"),
    ],
)
def test_a_server_that_refuses_is_told(
    mariadb: MariaDB, tmp_path: Path, user: str, name: str
) -> None:
    url = mariadb.url(name).replace("root@", f"{user}@")
    (line,) = start(tmp_path, "--database-url", url)
    assert line.startswith("SEF: ")
    assert name in line or "nobody" in line
    assert "secret" not in line


def test_amazon_without_a_region_is_told(tmp_path: Path) -> None:
    """Else the server would start, and every signal and every operator's call would fail."""
    (line,) = start(tmp_path, SEF_CLOUD="aws", AWS_CONFIG_FILE=str(tmp_path / "none"))
    assert line.startswith("SEF: SEF_REGION ")


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (line,) = start(tmp_path, "--port", str(port))
    assert line == f"SEF: 127.0.0.1:{port} is in use; choose another with --port or SEF_PORT"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEF_PORT", "http"),
        ("SEF_WORKERS", "0"),
        ("SEF_CLOUD", "azure"),
        ("SEF_PAIRING_TOLERANCE_SECONDS", "-1"),
        ("SEF_DATABASE_URL", "postgresql://localhost/sef"),
        ("SEF_DATABASE_URL", "sef"),
        ("SEF_ALLOWED_PRIVATE_NETWORKS", "10.0.0.1/8"),
        ("SEF_ALLOWED_PRIVATE_NETWORKS", "intranet"),
        ("SEF_NOTIFICATION_URLS", "slack://secret"),
        ("SEF_NOTIFICATION_URLS", "syslog://"),
        ("SEF_NOTIFICATION_MIN_SEVERITY", "loud"),
        ("SEF_TYPO", "1"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, name: str, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "backend.py"],
        cwd=ROOT,
        env=os.environ | {"SEF_VAR": str(tmp_path), name: value},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("SEF: ")
    assert name in line
    assert "secret" not in line
