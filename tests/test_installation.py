"""The installed package: its requirements, its version, and its command."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

import backend
import sef
from tests.web.server import ROOT, Server, stop_with_parent

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED_COMMAND = "from sef.main import run; run()"


def pinned_directly() -> dict[str, Requirement]:
    """Return the direct requirements, which are the first paragraph of requirements.txt."""
    paragraph = (ROOT / "requirements.txt").read_text().split("\n\n")[0]
    lines = [line.partition("#")[0].strip() for line in paragraph.splitlines()]
    return {(parsed := Requirement(line)).name: parsed for line in lines if line}


def test_the_package_requires_exactly_the_packages_that_requirements_txt_pins() -> None:
    required = {(parsed := Requirement(text)).name: parsed for text in PROJECT["dependencies"]}
    pinned = pinned_directly()
    assert pinned.keys() == required.keys()
    for name, pin in pinned.items():
        [(operator, version)] = [(part.operator, part.version) for part in pin.specifier]
        assert operator == "=="
        assert version in required[name].specifier, name
        assert pin.extras == required[name].extras, name


def test_the_version_of_the_package_is_that_of_the_command() -> None:
    assert "version" in PROJECT["dynamic"]
    shown = CliRunner().invoke(backend.main, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"SEF {sef.__version__}\n")


@pytest.fixture
def folder_with_a_foreign_backend(tmp_path: Path) -> Path:
    """Return a folder of modules with SEF's names, which an application may have of its own."""
    folder = tmp_path / "application"
    folder.mkdir()
    for name in ("backend", "flask", "moto", "sef"):
        (folder / f"{name}.py").write_text(f'raise SystemExit("imported the foreign {name}.py")\n')
    return folder


def test_the_installed_command_serves_beside_a_foreign_backend(
    tmp_path: Path, folder_with_a_foreign_backend: Path
) -> None:
    def start(
        arguments: Sequence[str], environment: Mapping[str, str], log: IO[Any]
    ) -> subprocess.Popen[bytes]:
        # -P: an installed command has its own folder on its path, not the current one.
        return subprocess.Popen(
            [sys.executable, "-P", "-c", INSTALLED_COMMAND, *arguments],
            cwd=folder_with_a_foreign_backend,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            preexec_fn=stop_with_parent,
            start_new_session=True,
        )

    server = Server(tmp_path, start=start)  # it raises unless /readyz answers
    server.stop()
    assert "foreign" not in (tmp_path / "server.log").read_text()


def test_a_start_that_fails_ends_with_one_line() -> None:
    failed = subprocess.run(
        [sys.executable, "-c", INSTALLED_COMMAND],
        cwd=ROOT,
        env=os.environ | {"SEF_TYPO": "1"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("SEF: SEF_TYPO: unknown setting; ")
    assert len(failed.stderr.splitlines()) == 1
