"""SEF on the database of a test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sef import config
from sef.clock import Clock, utc_now
from sef.cloud.simulation import Simulation
from smart_emergency_fallback import SmartEmergencyFallback

MakeSef = Callable[..., SmartEmergencyFallback]


@pytest.fixture
def make_sef(database_url: str, shared_simulation: tuple[Path, Simulation]) -> Iterator[MakeSef]:
    """Makes façades, each with connections of its own; on the test's database unless told."""
    made = []
    defaults = {"jobs": False, "var": shared_simulation[0], "simulated_pending": 0}

    def make(
        source: Any = None, *, clock: Clock = utc_now, **settings: Any
    ) -> SmartEmergencyFallback:
        sef = SmartEmergencyFallback(
            source or database_url, settings=config.load(**defaults | settings), clock=clock
        )
        made.append(sef)
        return sef

    yield make
    for sef in made:
        sef.close()


@pytest.fixture
def sef(make_sef: MakeSef) -> SmartEmergencyFallback:
    return make_sef()
