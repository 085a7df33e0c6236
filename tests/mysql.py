"""Run a private MySQL 9 server, unpacked from packages of Debian sid.

    python -m tests.mysql

downloads the server and its libraries with apt, which uses the configured mirrors and proxy, and
unpacks them into `var/mysql`. It installs nothing and does not need root.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.private_server import PrivateServer

HOME = Path(__file__).resolve().parent.parent / "var/mysql"
PACKAGE = "mysql-server-core"
SUITE = "sid"


def find() -> Path | None:
    """Return the path of the server program, or None if it is not unpacked."""
    program = HOME / "usr/sbin/mysqld"
    return program if program.exists() else None


class MySQL(PrivateServer):
    name = "MySQL"

    def _make_data(self) -> None:
        subprocess.run(
            [*self._command(), *self._paths(), "--initialize-insecure"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _command(self) -> Sequence[str]:
        program = find()
        assert program is not None
        # The server needs the C library that it was built for, newer than that of most machines.
        (loader,) = HOME.glob("usr/lib/*/ld-linux-*.so.*")
        return [
            str(loader),
            "--library-path",
            str(loader.parent),
            str(program),
            "--no-defaults",
            f"--basedir={HOME / 'usr'}",
            "--secure-file-priv=NULL",
            "--mysqlx=OFF",
        ]


class Unavailable(Exception):
    """MySQL 9 cannot be downloaded on this machine; the message gives the reason in one line."""


def unpack() -> None:
    """Download and unpack the server unless it is already unpacked.

    Raises:
        Unavailable: the machine has no apt, or none of its sources has the package.
    """
    if find() is not None:
        return
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise Unavailable("the download needs apt-get and dpkg-deb, which are not installed")
    work = HOME.with_name("mysql.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    for folder in ("lists/partial", "archives/partial", "root"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()  # an empty status: apt downloads all libraries, also installed ones
    try:
        _fetch(work)
        for package in sorted((work / "archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(work / "root")], check=True)
        (work / "root").rename(HOME)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fetch(work: Path) -> None:
    reason = "apt has no package sources"
    keys = [str(path) for path in Path("/usr/share/keyrings").glob("debian-archive-keyring.*")]
    signed = f"[signed-by={keys[0]}] " if keys else ""
    for address in _mirrors():
        (work / "sources.list").write_text(f"deb {signed}{address} {SUITE} main\n")
        for arguments in (
            ["--error-on=any", "update"],
            ["install", "--yes", "--download-only", "--no-install-recommends", PACKAGE],
        ):
            done = _apt(work, *arguments)
            if done.returncode != 0:
                lines = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
                reason = lines[0] if lines else f"apt-get {arguments[-1]} failed"
                break
        else:
            return
    raise Unavailable(f"no apt source has {PACKAGE} of {SUITE}: {reason}")


def _mirrors() -> list[str]:
    """Return the addresses of the machine's apt sources."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return list(dict.fromkeys(listed.stdout.split()))


def _apt(work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = {
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache::Archives": work / "archives",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Debug::NoLocking": "true",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "",  # apt's own user may not read this folder
    }
    return subprocess.run(
        ["apt-get", *[f"-o{name}={value}" for name, value in options.items()], *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    try:
        unpack()
    except Unavailable as error:
        sys.exit(f"MySQL 9 is not available: {error}.")
