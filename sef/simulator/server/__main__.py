"""`python -m sef.simulator.server --state DIR`: a simulated EC2, in a process of its own.

It needs no credentials; those of boto3's client are not looked at. For example

    boto3.client("ec2", endpoint_url="http://127.0.0.1:PORT", region_name="us-east-1",
                 aws_access_key_id="simulated", aws_secret_access_key="simulated")

where the endpoint is in DIR/simulated-ec2.json. It serves this machine only.
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

if TYPE_CHECKING:
    from werkzeug.serving import BaseWSGIServer

JOURNAL_FILE = "simulated-ec2.journal"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    _isolate()
    state: Path = options.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    # What imports moto comes late: it takes a second, and `--help` or a second start need not wait.
    from sef.simulator.server.journal import Journal, StateUnusable

    try:
        journal = Journal(state / JOURNAL_FILE)
        given = {} if options.pending_seconds is None else _pending(options.pending_seconds)
        server = _server(state, journal, options.port, options.spot_prices, given)
    except (StateUnusable, OSError, ValueError) as error:
        print(f"The simulated EC2 cannot start: {error}.", file=sys.stderr)
        return 1
    _serve(server, state / INFO_FILE)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m sef.simulator.server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--state", type=Path, required=True, help="folder that it lives in")
    parser.add_argument("--port", type=int, default=0, help="0, the default, is a free one")
    parser.add_argument(
        "--pending-seconds", type=float, help="how long an instance is pending (1 at first)"
    )
    parser.add_argument(
        "--spot-prices", type=Path, help="CSV file timestamp,pool,price to replay from the start"
    )
    return parser


def _pending(seconds: float) -> dict[str, Any]:
    if not seconds >= 0:
        raise ValueError("--pending-seconds is 0 or more")
    return {"pending_seconds": seconds}


def _isolate() -> None:
    """Keep out what the user has set up for AWS and moto, and make the order of sets repeatable.

    moto gives out addresses by `set.pop`. Another order would, at a restart, give other ones.
    """
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, sys.orig_argv, os.environ | {"PYTHONHASHSEED": "0"})
    for name in list(os.environ):
        if name.startswith(("AWS_", "MOTO_")):
            del os.environ[name]
    os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    # Its 1,300 images take a third of a second at the start and of the time of every launch.
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"


def _server(
    state: Path, journal: Any, port: int, spot_prices: Path | None, given: dict[str, Any]
) -> "BaseWSGIServer":
    from werkzeug.serving import WSGIRequestHandler, make_server

    _read_once()
    from sef.simulator.server.control import Application
    from sef.simulator.server.ec2 import SimulatedEc2

    class Handler(WSGIRequestHandler):
        # Head and body go out in two writes; Nagle would hold the second back for 40 ms.
        disable_nagle_algorithm = True

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Not a line for every request."""

    application = Application(SimulatedEc2(journal, spot_prices, given), str(state))
    return make_server("127.0.0.1", port, application, threaded=True, request_handler=Handler)


def _read_once() -> None:
    """Let botocore keep its list of endpoints, which moto has read a dozen times at its import.

    That is a third of the time that a start takes.
    """
    from botocore.loaders import JSONFileLoader

    read = JSONFileLoader.load_file
    kept: dict[str, Any] = {}

    def load_file(self: JSONFileLoader, file_path: str) -> Any:
        if Path(file_path).name not in ("endpoints", "partitions"):
            return read(self, file_path)
        if file_path not in kept:
            kept[file_path] = read(self, file_path)
        return kept[file_path]

    JSONFileLoader.load_file = load_file  # type: ignore[method-assign]


def _serve(server: "BaseWSGIServer", info: Path) -> None:
    def stop(*_: object) -> None:
        # A server cannot wait for its own end, and signals arrive in the thread that serves.
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    told = {
        "pid": os.getpid(),
        "port": server.port,
        "endpoint": f"http://127.0.0.1:{server.port}",
    }
    # To look through all that moto has at each full collection took a tenth of a second, of which
    # nothing is ever let go.
    gc.freeze()
    draft = info.with_suffix(".json.new")
    draft.write_text(json.dumps(told) + "\n")
    draft.replace(info)
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    # Python takes half a second to let go of what moto has, and the folder is locked till then.
    os._exit(main())
