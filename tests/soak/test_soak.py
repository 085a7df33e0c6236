"""A few random stories with every run of the tests; `make soak` plays more of them."""

from collections import Counter

import pytest

from tests.conftest import NO_SERVER, ON_CI
from tests.mariadb import find
from tests.soak.run import play, replay
from tests.soak.stage import Ground

SEED = 20_260_101
STORIES = 2


@pytest.mark.parametrize("database", ["sqlite", "mariadb"])
def test_random_stories_keep_every_promise(database: str) -> None:
    if database == "mariadb" and find() is None and not ON_CI:
        pytest.skip(NO_SERVER)
    print(f"again, and more: {replay(SEED, database)}")
    ground = Ground(database)
    tally: Counter[str] = Counter()
    try:
        play(SEED, ground, tally, stories=STORIES)
    finally:
        ground.close()
        print(dict(tally))
    assert tally["quiet periods"] >= STORIES
