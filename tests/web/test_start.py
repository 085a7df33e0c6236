"""A start that cannot succeed ends with one line that says why."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sef import main
from sef.commands import serve
from tests.mariadb import MariaDB
from tests.private_server import free_port
from tests.waiting import LIMIT
from tests.web.server import ROOT

Start = Callable[..., str]


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Start]:
    """Run `sef serve` in this process; return the line that it ends with."""
    environment = dict(os.environ)
    monkeypatch.setattr(serve, "Server", lambda *_, **__: pytest.fail("it started"))

    def run(*arguments: str, **variables: str) -> str:
        defaults = {"SEF_VAR": str(tmp_path / "var"), "SEF_PORT": str(free_port())}
        os.environ.update(defaults | variables)
        monkeypatch.setattr(sys, "argv", ["sef", "serve", *arguments])
        with pytest.raises(SystemExit) as end:
            main.run()
        assert capsys.readouterr() == ("", "")
        line = end.value.code
        assert isinstance(line, str)
        assert line.startswith("SEF: ")
        assert "\n" not in line
        return line

    yield run
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("/sys/sef.db", id="a read-only folder"),
        pytest.param("/proc/nowhere/sef.db", id="a folder that cannot be created"),
        pytest.param("{folder}/file/sef.db", id="a folder that is a file"),
        pytest.param("{folder}", id="a file that is a folder"),
        pytest.param("{folder}/file", id="a file that is not a database"),
    ],
)
def test_an_unusable_sqlite_file_is_named(start: Start, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("This is a text file, and not a database.\n" * 100)
    path = place.format(folder=tmp_path)
    assert path in start(SEF_DATABASE_URL=f"sqlite:///{path}")


def test_a_folder_that_is_a_file_is_named(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in start(SEF_VAR=str(tmp_path / "file"))


def test_an_unreachable_database_server_is_named_without_its_password(start: Start) -> None:
    port = free_port()
    line = start("--database-url", f"mysql+mysqlconnector://me:secret@127.0.0.1:{port}/sef")
    assert f"127.0.0.1:{port}" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("user", "name"),
    [
        pytest.param("root", "no_such_database", id="an unknown database"),
        pytest.param("nobody:secret", "mysql", id="an unknown user"),
    ],
)
def test_the_error_of_a_database_server_is_shown_without_the_password(
    start: Start, mariadb: MariaDB, user: str, name: str
) -> None:
    line = start("--database-url", mariadb.url(name).replace("root@", f"{user}@"))
    assert name in line or "nobody" in line
    assert "secret" not in line


def test_amazon_without_a_region_is_an_error(start: Start, tmp_path: Path) -> None:
    """Else the server would start, and every signal and every operator's call would fail."""
    line = start(SEF_CLOUD="aws", AWS_CONFIG_FILE=str(tmp_path / "none"))
    assert line.startswith("SEF: SEF_REGION ")


def test_a_port_in_use_is_named(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = start("--port", str(port))
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
def test_an_invalid_setting_is_named(start: Start, name: str, value: str) -> None:
    line = start(**{name: value})
    assert name in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("SEF_PORT", "http", id="an invalid setting"),
        pytest.param("SEF_NOTIFICATION_URLS", "slack://secret", id="an invalid channel"),
        pytest.param("SEF_DATABASE_URL", "sqlite:////sys/sef.db", id="an unusable database"),
    ],
)
def test_a_real_process_prints_one_line_and_ends_with_1(
    tmp_path: Path, name: str, value: str
) -> None:
    process = subprocess.run(
        [sys.executable, "backend.py"],
        cwd=ROOT,
        env=os.environ | {"SEF_VAR": str(tmp_path), "SEF_PORT": str(free_port()), name: value},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (process.returncode, process.stdout) == (1, "")
    (line,) = process.stderr.splitlines()
    assert line.startswith("SEF: ")
    assert name in line or value.removeprefix("sqlite:///") in line
    assert "secret" not in line
