"""Check the model's properties in every state, and that a missing rule breaks one of them.

`MODEL_DEPTH` adds events: with 1, the search takes minutes.
"""

import os

import pytest

from tests.model.rules import RULES
from tests.model.scenarios import SCENARIOS
from tests.model.search import Counterexample, Search

MORE = int(os.environ.get("MODEL_DEPTH", "0"))

BITES = {
    "drain": ("auto-switch", 1),
    "emergency": ("auto-switch", 3),
    "primary runs": ("auto-switch", 2),
    "held targets": ("auto-switch", 2),
    "former": ("auto-switch", 3),
    "released spare": ("SEF is down", 2),
    "release waits": ("SEF is down", 2),
    "claimed": ("SEF is down", 1),
    "lost spare": ("losses", 5),
    "recommended": ("auto-switch", 2),
    "relief": ("manual mode", 2),
    "ignored notice": ("auto-switch", 3),
    "unknown launch": ("a restore in manual mode", 4),
    "successor": ("a restore", 4),
    "wish": ("manual mode", 3),
    "holder": ("auto-switch", 3),
    "put back": ("auto-switch", 2),
    "standby's id": ("manual mode", 1),
    "learn": ("a primary without a known id", 3),
    "named anew": ("auto-switch", 2),
    "runs again": ("losses", 4),
    "no drill": ("auto-switch", 2),
    "cause": ("manual mode", 2),
}
"""For each rule, the scenario in which its absence is found, and the number of events."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_properties_hold_in_every_state(name: str) -> None:
    scenario = SCENARIOS[name]
    assert Search(scenario).run(scenario.depth + MORE) > 100


@pytest.mark.parametrize("rule", RULES)
def test_the_search_finds_a_missing_rule(rule: str) -> None:
    name, events = BITES[rule]
    with pytest.raises(Counterexample) as found:
        Search(SCENARIOS[name], [rule]).run()
    assert len(found.value.events) == events


def test_a_counterexample_is_a_list_of_events_in_words() -> None:
    with pytest.raises(Counterexample) as found:
        Search(SCENARIOS["auto-switch"], ["primary runs"]).run()
    assert str(found.value).splitlines() == [
        "nothing_that_serves_is_ended: SEF ended A, while the primary B does not run",
        "auto-switch, then",
        "  1. AWS recommends a rebalance for the primary A",
        "  2. the primary B ends without a notice",
    ]
