"""The law of a clean series holds over HTTP, with several clients at once.

tests/prices proves the law; this test adds HTTP, workers and MariaDB.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
import requests

from sef.clock import iso
from sef.prices.series import CleaningRules, Observation, clean_series
from sef.terms import Source
from tests.prices.test_series_laws_on_databases import PRICES, STEPS
from tests.web.server import Server

START = datetime(2024, 3, 1, tzinfo=UTC)
CLIENTS = 4
MAX_ATTEMPTS = 50


def observations(dice: Random) -> list[Observation]:
    """Draw observations with at most one for each source and instant."""
    at, drawn = START, []
    for _ in range(40):
        at += timedelta(seconds=dice.choice(STEPS))
        for source in dice.choice([[Source.PRIMARY], [Source.REPLICA], list(Source)]):
            drawn.append(Observation(source, at, Decimal(dice.choice(PRICES))))
    return drawn


def body(agent_id: str, observation: Observation) -> dict[str, Any]:
    return {
        "agent_id": agent_id,
        "pool_id": "pool",
        "timestamp": iso(observation.at),
        "spot_price": float(observation.price),
        "is_replica": observation.source is Source.REPLICA,
    }


def post(url: str, content: dict[str, Any]) -> None:
    """Send a request as a client does: repeat it while the answer is 503."""
    for _ in range(MAX_ATTEMPTS):
        answer = requests.post(url, json=content, timeout=60)
        if answer.status_code != 503:
            break
    assert answer.status_code == 200, answer.text
    assert not answer.json().get("rejected")


@pytest.mark.databases("mariadb")
@pytest.mark.parametrize("seed", range(4))
def test_any_order_and_repetition_over_several_clients_ends_in_the_clean_series(
    server: Server, seed: int
) -> None:
    dice = Random(seed)
    agent_id = f"laws-{seed}"
    observed = observations(dice)
    sent = observed + dice.sample(observed, len(observed) // 3)
    dice.shuffle(sent)

    def report(share: list[Observation]) -> None:
        half = len(share) // 2
        for observation in share[:half]:
            post(f"{server.url}/api/agents/{agent_id}/pricing", body(agent_id, observation))
        batch = [body(agent_id, observation) for observation in share[half:]]
        post(f"{server.url}/api/pricing/batch", {"reports": batch})

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(report, [sent[n::CLIENTS] for n in range(CLIENTS)]))
    answer = requests.get(f"{server.url}/api/agents/{agent_id}/pricing?limit=10000", timeout=60)
    assert [
        (point["timestamp"], point["spot_price"], point["data_quality"])
        for point in answer.json()["points"]
    ] == [
        (iso(point.at), float(point.price), point.flag.value)
        for point in clean_series(observed, CleaningRules())
    ]
