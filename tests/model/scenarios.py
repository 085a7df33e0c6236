"""List the scenarios of the model: a first state, the events that follow, and how many of them."""

from tests.model.events import KINDS, start
from tests.model.search import Scenario
from tests.model.world import Machine, State, Target, Warned

AUTO = start(is_auto=True)
MANUAL = start(is_manual=True)
UNKNOWN = start(primary=None, machines=(Machine("A", is_known=False),))
BARE: State = start(targets=())
REPORTING = start(is_auto=True, targets=(), reports=True)
DOWN = start(
    is_auto=True,
    is_down=True,
    machines=(
        Machine("A"),
        Machine("B", warned=Warned.RECOMMENDED, recommended_for=0, is_ours=True),
    ),
    releasing=("B",),
)
RESTORES = ["announcements", "deaths", "switches", "restores", "times"]
TWO = start(is_manual=True, targets=(Target("one", "A"), Target("two", "A", is_refused=True)))

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("auto-switch", AUTO, list(KINDS), 3),
        Scenario("manual mode", MANUAL, list(KINDS), 3),
        Scenario("a primary without a known id", UNKNOWN, list(KINDS), 3),
        Scenario(
            "losses",
            start(is_auto=True, targets=()),
            ["announcements", "deaths", "console", "launches", "times"],
            5,
        ),
        Scenario("a bare agent", BARE, ["announcements", "learning", "names", "modes", "times"], 4),
        Scenario("targets", MANUAL, ["announcements", "targets", "health", "switches"], 4),
        Scenario("SEF is down", DOWN, ["announcements", "launches", "names", "pauses", "times"], 3),
        Scenario("a restore", REPORTING, RESTORES, 4),
        Scenario("a restore in manual mode", start(is_manual=True), RESTORES, 4),
        Scenario("a stuck target", TWO, ["deaths", "switches", "names", "targets", "pauses"], 3),
    )
}
