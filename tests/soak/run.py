"""Random stories from one seed, so that a failure can be had again."""

import traceback
from collections import Counter

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.reporting import with_reporter
from hypothesis.stateful import run_state_machine_as_test

from tests.soak.harness import Ground
from tests.soak.state_machine import Story

STORIES = 12
STEPS = 100


class Broken(AssertionError):
    """A promise is broken, or something failed that must not; the message has the steps to it."""


def play(number: int, ground: Ground, tally: Counter[str], *, stories: int = STORIES) -> None:
    """Play the stories of one seed.

    Not shrunk: a story that has threads and processes in it is not the same twice for certain.

    Raises:
        Broken: at the first story that fails.
    """
    steps: list[str] = []
    before = tally["steps"]
    broken: list[tuple[int, str, list[str]]] = []

    @seed(number)
    class Seeded(Story):
        def begin_telling(self) -> None:
            steps.clear()
            tally["stories"] += 1

        def fail(self, error: BaseException) -> None:
            done = tally["steps"] - before
            broken.append((done, "".join(traceback.format_exception(error)).strip(), list(steps)))

    Seeded.ground = ground
    Seeded.tally = tally
    try:
        with with_reporter(lambda line: steps.append(str(line))):
            run_state_machine_as_test(Seeded, settings=settings(_SETTINGS, max_examples=stories))
    except Exception as error:
        # Only the first counts: Hypothesis plays a story that has failed again.
        never_begun = tally["steps"] - before, repr(error), list(steps)
        done, said, told = broken[0] if broken else never_begun
        lines = [line for line in told if line.startswith("state.") and line != "state.always()"]
        first = f"after {done} steps; those of its last story:"
        raise Broken("\n".join([first, *lines, said])) from None


_SETTINGS = settings(
    stateful_step_count=STEPS,
    phases=[Phase.generate],
    database=None,
    deadline=None,
    derandomize=False,
    print_blob=False,
    # So that each step is told of as it is taken, also of a story that does not fail again.
    verbosity=Verbosity.debug,
    suppress_health_check=list(HealthCheck),
)


def replay(number: int, database: str) -> str:
    return f"make soak SEED={number} DATABASE={database}"
