"""A few random stories with every run of the tests; `make soak` plays more of them."""

from collections import Counter
from typing import Any

import pytest

from tests.conftest import NO_SERVER, ON_CI
from tests.mariadb import find
from tests.soak import invariants
from tests.soak.harness import Ground
from tests.soak.run import Broken, play, replay

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


def test_a_broken_promise_is_told_with_the_steps_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*arguments: Any) -> None:
        assert tally["steps"] < 4, "a promise is broken"

    tally: Counter[str] = Counter()
    monkeypatch.setattr(invariants, "at_any_time", breaks)
    ground = Ground("sqlite")
    try:
        with pytest.raises(Broken) as broken:
            play(SEED, ground, tally, stories=STORIES)
    finally:
        ground.close()
    told = str(broken.value).splitlines()
    assert told[0] == "after 4 steps; those of its last story:"
    steps = [line for line in told if line.startswith("state.")]
    assert steps[0].startswith("state.begin(")
    assert len(steps) > 1
    assert "AssertionError: a promise is broken" in told
