"""Play the random stories of one seed, so that a failure can be reproduced."""

import traceback
from collections import Counter

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.reporting import with_reporter
from hypothesis.stateful import run_state_machine_as_test

from tests.soak.harness import Ground
from tests.soak.state_machine import Story

STORIES = 4
STEPS = 100

_SETTINGS = settings(
    stateful_step_count=STEPS,
    phases=[Phase.generate],
    database=None,
    deadline=None,
    derandomize=False,
    print_blob=False,
    # Reports each step as it is taken, also of a story that does not fail again.
    verbosity=Verbosity.debug,
    suppress_health_check=list(HealthCheck),
)


class Broken(AssertionError):
    """An invariant is broken, or a step failed; the message has the steps of the story."""


def play(number: int, ground: Ground, tally: Counter[str], *, stories: int = STORIES) -> None:
    """Play the stories of one seed.

    A failed story is not shrunk: with threads and processes, a repeated story can differ.

    Raises:
        Broken: a story failed; the stories after it are not played. A seed without one complete
            story also fails.
    """
    steps: list[str] = []
    before, quiet_before = tally["steps"], tally["quiet periods"]
    broken: list[tuple[int, str, list[str]]] = []

    @seed(number)
    class Seeded(Story):
        def on_begin(self) -> None:
            steps.clear()
            tally["stories"] += 1

        def on_failure(self, error: BaseException) -> None:
            done = tally["steps"] - before
            broken.append((done, "".join(traceback.format_exception(error)).strip(), list(steps)))

    Seeded.ground = ground
    Seeded.tally = tally
    try:
        with with_reporter(lambda line: steps.append(str(line))):
            run_state_machine_as_test(Seeded, settings=settings(_SETTINGS, max_examples=stories))
    except Exception as error:
        # The first failure counts: Hypothesis repeats a failed story.
        before_the_first_step = tally["steps"] - before, repr(error), list(steps)
        done, failure, played = broken[0] if broken else before_the_first_step
        lines = [line for line in played if line.startswith("state.") and line != "state.always()"]
        first = f"after {done} steps; the steps of the last story:"
        raise Broken("\n".join([first, *lines, failure])) from None
    if tally["quiet periods"] - quiet_before < stories:
        raise Broken(
            f"only {tally['quiet periods'] - quiet_before} quiet periods in {stories} stories"
        )


def replay(number: int, database: str) -> str:
    """Return the command that plays the stories of a seed again."""
    return f"make soak SEED={number} DATABASE={database}"
