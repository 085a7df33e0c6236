"""Replay real price changes over the HTTP API, and compare the stored series with the rules.

    python bench/replay.py --url http://127.0.0.1:5000 --file FILE

The file has the columns Timestamp, Region, SpotPrice: AWS price changes of one instance type, all
zones of a region mixed. They are sent as the reports of one agent about one pool, over several
connections at once, so that no two runs arrive in the same order. Then the series is read back
and compared, point by point, with the pure function that defines it (sef.prices.series).

Every change is in the file twice, and the second is sent too, as a repeat. Because the zones are
mixed, some instants have several different prices. Each would correct the one before, so the
result would depend on the order of arrival, and there would be nothing to compare with. So the 2nd,
3rd, ... different price of an instant is sent 1, 2, ... microseconds later, as a separate
observation.

Exit code: 0 if the series is identical, 1 if it differs or could not be read.
"""

import argparse
import csv
import http.client
import json
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sef.prices.series import MICROSECOND, CleaningRules, Observation, clean_series
from sef.terms import PRICE_STEP, STORED_STEP, Source

ORDERS = ("file", "shuffled", "doubled", "dual")
PAGE = 10_000
TRIES = 20
REPLICA_LATER = timedelta(seconds=1)
REPLICA_PRICE = Decimal("1.002")

Row = tuple[datetime, Decimal, str]
"""Time, price and flag of a point, as the API returns it."""


class Failed(Exception):
    """The replay has to stop; the message is the reason."""


def read_changes(path: Path) -> list[Observation]:
    """Return the price changes in the order of the file, repeats included."""
    prices_at: defaultdict[datetime, list[Decimal]] = defaultdict(list)
    changes = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            at, price = datetime.fromisoformat(row["Timestamp"]), Decimal(row["SpotPrice"])
            known = prices_at[at]
            if price not in known:
                known.append(price)
            changes.append(
                Observation(Source.PRIMARY, at + known.index(price) * MICROSECOND, price)
            )
    return changes


def as_replica(seen: Observation) -> Observation:
    """Return a replica's report of the same change: a second later, at nearly the same price."""
    price = (seen.price * REPLICA_PRICE).quantize(PRICE_STEP, ROUND_HALF_EVEN)
    return Observation(Source.REPLICA, seen.at + REPLICA_LATER, price)


def shares(
    changes: Sequence[Observation], order: str, connections: int, seed: int
) -> list[list[Observation]]:
    """Return the observations that each connection sends, in its order."""
    chance = random.Random(seed)
    if order == "dual":
        # Half of the connections send as the primary, the other half as the replica.
        replica = [as_replica(seen) for seen in changes]
        ours, theirs = connections - connections // 2, max(1, connections // 2)
        return [list(changes[i::ours]) for i in range(ours)] + [
            replica[i::theirs] for i in range(theirs)
        ]
    sent = list(changes) * (2 if order == "doubled" else 1)
    if order != "file":
        chance.shuffle(sent)
    return [sent[i::connections] for i in range(connections)]


class Api:
    """A persistent connection. It repeats a report that failed: a repeat changes nothing."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise Failed(f"invalid URL {url}; expected e.g. http://127.0.0.1:5000")
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=30)

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body)
        """Return the JSON of the answer; retry up to `TRIES` times while SEF is away or busy."""
        problem = ""
        for _ in range(TRIES):
            try:
                self._connection.request(method, path, content)
                response = self._connection.getresponse()
                response_body = response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                problem = f"{type(error).__name__}: {error}"
                time.sleep(0.5)
                continue
            if response.status == 200:
                answer: dict[str, Any] = json.loads(response_body, parse_float=Decimal)
                return answer
            problem = f"{response.status} {response_body.decode(errors='replace').strip()}"
            if response.status != 503:
                break
            time.sleep(float(response.headers.get("Retry-After", 1)))
        raise Failed(f"{method} {path}: {problem}")

    def close(self) -> None:
        self._connection.close()


class Progress:
    """A progress line on a terminal; elsewhere only its last state."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._started = self._shown = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if sys.stderr.isatty() and time.monotonic() - self._shown > 0.2:
                self._shown = time.monotonic()
                print(f"\r{self}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        print(f"\r{self}" if sys.stderr.isatty() else self, file=sys.stderr)

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        return f"{self._done:,}/{self._total:,} reports sent, {self._done / seconds:,.0f}/s"


def body_of(seen: Observation, pool: str) -> dict[str, Any]:
    # A float keeps the 8 decimals of a price, and text keeps the microseconds of a time.
    return {
        "spot_price": float(seen.price),
        "pool_id": pool,
        "timestamp": seen.at.isoformat(),
        "is_replica": seen.source is Source.REPLICA,
    }


def send(
    url: str, agent: str, pool: str, share: Sequence[Observation], batch: int, progress: Progress
) -> None:
    """Send the share of one connection; `batch` is the number of reports per request, 0: one."""
    api = Api(url)
    try:
        if not batch:
            for seen in share:
                api.ask("POST", f"/api/agents/{quote(agent)}/pricing", body_of(seen, pool))
                progress.add(1)
        for start in range(0, len(share) if batch else 0, batch or 1):
            part = share[start : start + batch]
            reports = [{"agent_id": agent, **body_of(seen, pool)} for seen in part]
            rejected = api.ask("POST", "/api/pricing/batch", {"reports": reports})["rejected"]
            if rejected:
                raise Failed(f"a report was rejected: {rejected[0]}")
            progress.add(len(part))
    finally:
        api.close()


def stored_series(url: str, agent: str, pool: str) -> Iterator[Row]:
    """Read the series from the API, page by page."""
    api = Api(url)
    arguments = {"pool_id": pool, "limit": str(PAGE)}
    try:
        while True:
            page = api.ask("GET", f"/api/agents/{quote(agent)}/pricing?{urlencode(arguments)}")
            rows = [_row(point) for point in page["points"]]
            yield from rows
            if page["is_complete"]:
                return
            arguments["from"] = (rows[-1][0] + MICROSECOND).isoformat()
    finally:
        api.close()


def _row(point: Mapping[str, Any]) -> Row:
    price = Decimal(point["spot_price"]).quantize(STORED_STEP)
    return datetime.fromisoformat(point["timestamp"]), price, point["data_quality"]


def difference(expected: Sequence[Row], found: Sequence[Row]) -> str | None:
    """Describe the first difference between two series; None if they are equal."""
    for number, (one, other) in enumerate(zip_longest(expected, found), start=1):
        if one != other:
            return f"different at point {number}: expected {_shown(one)}, found {_shown(other)}"
    return None


def _shown(row: Row | None) -> str:
    return "the end" if row is None else f"{row[0].isoformat()} {row[1]} {row[2]}"


def replay(given: argparse.Namespace) -> int:
    """Send all observations, compare the stored series, and return the exit code."""
    changes = read_changes(given.file)
    agent = given.agent or f"replay-{given.order}"
    parts = shares(changes, given.order, given.connections, given.seed)
    progress = Progress(sum(len(part) for part in parts))
    with ThreadPoolExecutor(len(parts)) as connections:
        running = [
            connections.submit(send, given.url, agent, given.pool, part, given.batch, progress)
            for part in parts
        ]
    progress.end()
    for sender in running:
        sender.result()

    observations = {seen for part in parts for seen in part}
    expected = [
        (point.at, point.price.quantize(STORED_STEP), point.flag.value)
        for point in clean_series(observations, CleaningRules())
    ]
    problem = difference(expected, list(stored_series(given.url, agent, given.pool)))
    print(problem or f"identical: {len(expected)} points")
    return 1 if problem else 0


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--url", default="http://127.0.0.1:5000", help="where SEF serves (default: %(default)s)"
    )
    parser.add_argument("--file", type=Path, required=True, help="the CSV file of price changes")
    parser.add_argument(
        "--order",
        choices=ORDERS,
        default="file",
        help="as in the file; shuffled; each sent twice and shuffled; or every change reported by "
        "a primary and, a second later and 0.2 %% higher, by a replica (default: %(default)s)",
    )
    parser.add_argument(
        "--connections",
        type=positive,
        default=8,
        help="parallel connections (default: %(default)s)",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        default=0,
        metavar="N",
        help="send N reports in a request (default: each in a request of its own)",
    )
    parser.add_argument("--agent", help="agent without other reports (default: replay-ORDER)")
    parser.add_argument("--pool", default="us-east-1", help="(default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the shuffling (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    try:
        return replay(given)
    except (Failed, OSError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
