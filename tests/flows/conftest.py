from collections.abc import Callable, Iterator

import pytest

from sef.cloud.simulation import Simulation
from smart_emergency_fallback import SmartEmergencyFallback
from tests.flows.world import World


@pytest.fixture(autouse=True)
def _as_it_begins(simulation: Simulation) -> None:
    simulation.clear_faults()
    simulation.set_options(
        pending_seconds=0, visible_after_seconds=0, refuse_token_of_terminated=True
    )
    for pool in simulation.pools():
        if not pool.capacity:
            simulation.set_pool(pool.pool, capacity=True)


@pytest.fixture
def world(
    simulation: Simulation,
    database_url: str,
    make_sef: Callable[..., SmartEmergencyFallback],
) -> Iterator[World]:
    world = World(simulation, database_url, make_sef)
    yield world
    world.close()


# --- temporary, until tests/conftest.py has them ---
from pathlib import Path  # noqa: E402

from sef import config  # noqa: E402
from sef.cloud.simulation import ensure_running  # noqa: E402


@pytest.fixture(scope="session")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    simulation = ensure_running(tmp_path_factory.mktemp("sim"), pending_seconds=0)
    yield simulation
    simulation.stop()


@pytest.fixture
def make_sef(simulation: Simulation, database_url: str) -> Iterator[Callable]:
    made = []
    var = Path(simulation.health()["state"])

    def make(*, clock=None, **settings):
        given = {"database_url": database_url, "var": var, "simulated_pending": 0} | settings
        more = {"clock": clock} if clock else {}
        made.append(SmartEmergencyFallback(database_url, settings=config.load(**given), **more))
        return made[-1]

    yield make
    for one in made:
        one.close()
