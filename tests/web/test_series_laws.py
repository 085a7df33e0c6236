"""The laws of a clean series hold through HTTP, with several clients at once."""

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
PATIENCE = 50


def observations(dice: Random) -> list[Observation]:
    """Observations of which no two are of one source and one instant."""
    at, found = START, []
    for _ in range(40):
        at += timedelta(seconds=dice.choice(STEPS))
        for source in dice.choice([[Source.PRIMARY], [Source.REPLICA], list(Source)]):
            found.append(Observation(source, at, Decimal(dice.choice(PRICES))))
    return found


def body(agent_id: str, seen: Observation) -> dict[str, Any]:
    return {
        "agent_id": agent_id,
        "pool_id": "pool",
        "timestamp": iso(seen.at),
        "spot_price": float(seen.price),
        "is_replica": seen.source is Source.REPLICA,
    }


def post(url: str, content: dict[str, Any]) -> None:
    """As a client does, which repeats what was answered with 503."""
    for _ in range(PATIENCE):
        answer = requests.post(url, json=content, timeout=60)
        if answer.status_code != 503:
            break
    assert answer.status_code == 200, answer.text
    assert not answer.json().get("rejected")


@pytest.mark.parametrize("seed", range(4))
def test_any_order_repetition_and_split_over_clients_ends_in_the_clean_series(
    server: Server, seed: int
) -> None:
    dice = Random(seed)
    agent_id = f"laws-{seed}"
    seen = observations(dice)
    sent = seen + dice.sample(seen, len(seen) // 3)
    dice.shuffle(sent)

    def report(share: list[Observation]) -> None:
        half = len(share) // 2
        for one in share[:half]:
            post(f"{server.url}/api/agents/{agent_id}/pricing", body(agent_id, one))
        batch = [body(agent_id, one) for one in share[half:]]
        post(f"{server.url}/api/pricing/batch", {"reports": batch})

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(report, [sent[n::CLIENTS] for n in range(CLIENTS)]))
    got = requests.get(f"{server.url}/api/agents/{agent_id}/pricing?limit=10000", timeout=60)
    assert [
        (point["timestamp"], point["spot_price"], point["data_quality"])
        for point in got.json()["points"]
    ] == [
        (iso(point.at), float(point.price), point.flag.value)
        for point in clean_series(seen, CleaningRules())
    ]
