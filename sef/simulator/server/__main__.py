"""Run a simulated EC2 in a process of its own: `python -m sef.simulator.server --state DIR`.

It serves this machine only. It ignores credentials, but a boto3 client must have some:

    boto3.client("ec2", endpoint_url="http://127.0.0.1:PORT", region_name="us-east-1",
                 aws_access_key_id="simulated", aws_secret_access_key="simulated")

The endpoint is in DIR/simulated-ec2.json.
"""

import argparse
import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sef.simulator import INFO_FILE
from sef.terms import LONGEST_SPAN

if TYPE_CHECKING:
    from werkzeug.serving import BaseWSGIServer

JOURNAL_FILE = "simulated-ec2.journal"


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM; return the exit code."""
    options = _parser().parse_args(arguments)
    _isolate()
    state: Path = options.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    # moto takes a second to import: neither `--help` nor a locked folder has to wait for it.
    from sef.simulator.server.journal import Journal, StateUnusable

    try:
        journal = Journal(state / JOURNAL_FILE)
        given = {} if options.pending_seconds is None else _pending_option(options.pending_seconds)
        server = _server(state, journal, options.port, options.spot_prices, given)
    except (StateUnusable, OSError, ValueError) as error:
        print(f"The simulated EC2 cannot start: {error}.", file=sys.stderr)
        return 1
    _serve(server, state / INFO_FILE)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m sef.simulator.server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--state", type=Path, required=True, help="folder of its journal and its endpoint"
    )
    parser.add_argument("--port", type=int, default=0, help="0, the default, picks a free port")
    parser.add_argument(
        "--pending-seconds",
        type=float,
        help="time that an instance is pending, in seconds (default: the last value; at first 1)",
    )
    parser.add_argument(
        "--spot-prices",
        type=Path,
        help="CSV file timestamp,pool,price, replayed from the start of the simulation",
    )
    return parser


def _pending_option(seconds: float) -> dict[str, Any]:
    if not 0 <= seconds <= LONGEST_SPAN:
        raise ValueError(f"--pending-seconds must be from 0 to {LONGEST_SPAN}")
    return {"pending_seconds": seconds}


def _isolate() -> None:
    """Remove the user's settings for AWS and moto, and make the order of sets repeatable.

    moto picks addresses with `set.pop`: with another hash seed, a restart would pick others.
    """
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, sys.orig_argv, os.environ | {"PYTHONHASHSEED": "0"})
    for name in list(os.environ):
        if name.startswith(("AWS_", "MOTO_")):
            del os.environ[name]
    os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    # moto's 1,300 images cost a third of a second at the start, and a third of each launch.
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"


def _server(
    state: Path, journal: Any, port: int, spot_prices: Path | None, given: dict[str, Any]
) -> "BaseWSGIServer":
    from werkzeug.serving import WSGIRequestHandler, make_server

    _cache_endpoints()
    from sef.simulator.server.control import Application
    from sef.simulator.server.ec2 import SimulatedEc2

    class Handler(WSGIRequestHandler):
        """Handler that sends small answers at once and logs no requests."""

        # Head and body are two writes; Nagle's algorithm would delay the second by 40 ms.
        disable_nagle_algorithm = True

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Log nothing."""

    application = Application(SimulatedEc2(journal, spot_prices, given), str(state))
    return make_server("127.0.0.1", port, application, threaded=True, request_handler=Handler)


def _cache_endpoints() -> None:
    """Let botocore cache its list of endpoints.

    moto reads the list a dozen times during its import, a third of the time of a start.
    """
    from botocore.loaders import JSONFileLoader

    read = JSONFileLoader.load_file
    cache: dict[str, Any] = {}

    def load_file(self: JSONFileLoader, file_path: str) -> Any:
        if Path(file_path).name not in ("endpoints", "partitions"):
            return read(self, file_path)
        if file_path not in cache:
            cache[file_path] = read(self, file_path)
        return cache[file_path]

    JSONFileLoader.load_file = load_file  # type: ignore[method-assign]


def _serve(server: "BaseWSGIServer", info: Path) -> None:
    def stop(*_: object) -> None:
        # `shutdown` waits for the serving thread, and signals are handled in just that thread.
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    endpoint_info = {
        "pid": os.getpid(),
        "port": server.port,
        "endpoint": f"http://127.0.0.1:{server.port}",
    }
    # Each full collection took a tenth of a second to scan moto's objects, and freed none of them.
    gc.freeze()
    draft = info.with_suffix(".json.new")
    draft.write_text(json.dumps(endpoint_info) + "\n")
    draft.replace(info)
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    # A normal exit takes half a second to free moto's objects, with the folder locked.
    os._exit(main())
