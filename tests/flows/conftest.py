"""The stage that every story plays on."""

from collections.abc import Iterator
from types import SimpleNamespace

import botocore.endpoint
import pytest

from sef.cloud.simulation import Simulation
from sef.config import Settings
from tests.flows.world import World


@pytest.fixture(autouse=True)
def _boto3_tries_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def world(simulation: Simulation, sef_settings: Settings) -> Iterator[World]:
    world = World(simulation, sef_settings)
    yield world
    world.close()
    simulation.set_options(
        visible_after_seconds=0, refuse_token_of_terminated=True, healthy_after_seconds=0
    )
