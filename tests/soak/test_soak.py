"""The bounded form of the randomised test; `make soak` is the one for a night."""

from collections import Counter

import pytest

from tests.conftest import NO_SERVER, ON_CI
from tests.mariadb import find
from tests.soak.run import play, replay
from tests.soak.stage import Ground

SEED = 20_260_101


@pytest.mark.parametrize("database", ["sqlite", "mariadb"])
def test_random_stories_keep_every_promise(database: str) -> None:
    if database == "mariadb" and find() is None and not ON_CI:
        pytest.skip(NO_SERVER)
    ground = Ground(database)
    tally: Counter[str] = Counter()
    print(f"seed {SEED}; again: {replay(SEED, database)}")
    try:
        play(SEED, ground, tally)
    finally:
        ground.close()
        print(dict(tally))
