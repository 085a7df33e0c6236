"""Run a private MariaDB server from the installed program."""

import shutil
import subprocess
from collections.abc import Sequence

from tests.private_server import PrivateServer, free_port

__all__ = ["MariaDB", "find", "free_port"]

FOLDERS = "/usr/sbin:/usr/bin:/usr/libexec:/usr/local/sbin"


def find() -> str | None:
    """Return the path of the server program, or None if it is not installed."""
    return shutil.which("mariadbd") or shutil.which("mariadbd", path=FOLDERS)


class MariaDB(PrivateServer):
    name = "MariaDB"

    def _make_data(self) -> None:
        install = shutil.which("mariadb-install-db", path=FOLDERS) or "mariadb-install-db"
        subprocess.run(
            [
                install,
                "--no-defaults",
                *self._paths(),
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _command(self) -> Sequence[str]:
        program = find()
        assert program is not None
        return [program, "--no-defaults"]
