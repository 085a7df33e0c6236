"""Check that the soak test reports a broken invariant; `make soak` plays the stories."""

from collections import Counter
from typing import Any

import pytest

from tests.soak import invariants
from tests.soak.harness import Ground
from tests.soak.run import Broken, play

SEED = 20_260_101
STORIES = 2


def test_a_broken_invariant_is_reported_with_the_steps_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def break_invariant(*arguments: Any) -> None:
        assert tally["steps"] < 4, "an invariant is broken"

    tally: Counter[str] = Counter()
    monkeypatch.setattr(invariants, "check_always", break_invariant)
    ground = Ground("sqlite")
    try:
        with pytest.raises(Broken) as broken:
            play(SEED, ground, tally, stories=STORIES)
    finally:
        ground.close()
    lines = str(broken.value).splitlines()
    assert lines[0] == "after 4 steps; the steps of the last story:"
    steps = [line for line in lines if line.startswith("state.")]
    assert steps[0].startswith("state.begin(")
    assert len(steps) > 1
    assert "AssertionError: an invariant is broken" in lines
