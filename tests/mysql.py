"""A private MySQL 9 server, unpacked from Debian sid beside everything that is installed.

    python -m tests.mysql

fetches it with the machine's own apt (its mirror and proxy) and unpacks it, with the
libraries it needs, into `var/mysql`. Nothing is installed, and it need not be root.
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
    """The server program, if it was unpacked."""
    program = HOME / "usr/sbin/mysqld"
    return program if program.exists() else None


class MySQL(PrivateServer):
    name = "MySQL"

    def _make_data(self) -> None:
        subprocess.run(
            [*self._command(), *self._places(), "--initialize-insecure"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _command(self) -> Sequence[str]:
        program = find()
        assert program is not None
        # With the C library it was built for, which is newer than that of most machines.
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
    """MySQL 9 cannot be had on this machine; the message is one line that says why."""


def unpack() -> None:
    """Fetch and unpack the server unless it is there.

    Raises:
        Unavailable: the machine has no apt, or no source of it has the package.
    """
    if find() is not None:
        return
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise Unavailable("it is taken from Debian with apt-get, which is not here")
    work = HOME.with_name("mysql.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    for folder in ("lists/partial", "archives/partial", "root"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()  # nothing counts as installed: all libraries are fetched
    try:
        _fetch(work)
        for package in sorted((work / "archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(work / "root")], check=True)
        (work / "root").rename(HOME)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fetch(work: Path) -> None:
    told = "apt has no source of packages"
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
                told = lines[0] if lines else f"apt-get {arguments[-1]} failed"
                break
        else:
            return
    raise Unavailable(f"no source of apt has {PACKAGE} of {SUITE}: {told}")


def _mirrors() -> list[str]:
    """Where this machine gets its packages from."""
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
        "APT::Sandbox::User": "",  # which may not read this folder
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
        sys.exit(f"MySQL 9 cannot be had: {error}.")
