"""Send a fixed number of requests over HTTP, and check each answer."""

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Post:
    path: str
    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    path: str
    status: int
    body: bytes
    sent: float
    """Epoch seconds."""
    answered: float
    """Epoch seconds."""


def send_all(
    base: str,
    shares: Sequence[Sequence[Post]],
    *,
    check: Callable[[Answer], bool] = lambda answer: 200 <= answer.status < 300,
) -> tuple[float, list[Answer]]:
    """Send each share over its own connection, one request after the other.

    Returns:
        The duration in seconds, and the answers.

    Raises:
        RuntimeError: `check` rejected an answer, or a connection failed.
    """
    where = urlsplit(base)
    answers: list[Answer] = []
    failed: list[BaseException] = []
    gate = threading.Barrier(len(shares) + 1)

    def work(share: Sequence[Post]) -> None:
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=120)
        try:
            connection.connect()
            gate.wait()
            for post in share:
                if failed:
                    return
                answers.append(_sent(connection, post, check))
        except BaseException as error:
            failed.append(error)
            gate.abort()
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    with suppress(threading.BrokenBarrierError):  # a failed connection is raised below
        gate.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - started
    if failed:
        raise RuntimeError(f"{base}: {failed[0]}") from failed[0]
    return taken, answers


def _sent(
    connection: http.client.HTTPConnection, post: Post, check: Callable[[Answer], bool]
) -> Answer:
    sent = time.time()
    connection.request("POST", post.path, post.body, {"Content-Type": post.content_type})
    response = connection.getresponse()
    body = response.read()
    answer = Answer(post.path, response.status, body, sent, time.time())
    if not check(answer):
        raise RuntimeError(f"{answer.status} {body[:500].decode(errors='replace')}")
    return answer
