"""The calls that the rules of a random story share; `state_machine.Story` has their bodies."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import Belongings
from tests.soak.harness import Ground, Stage


class StoryRules(RuleBasedStateMachine):
    """The state of a story, and the calls with which its rules act."""

    ground: Ground
    tally: Counter[str]
    steps: int
    belongings: dict[str, Belongings]

    @property
    def world(self) -> Stage:
        raise NotImplementedError

    def _do(
        self, worker: int, do: Callable[[SmartEmergencyFallback], Any], fuse: int | None
    ) -> Any:
        """Return the answer of a worker; None if it rejects the call, fails or dies."""
        raise NotImplementedError

    def _set_mode(self, worker: int, agent_id: str, mode: str) -> None:
        raise NotImplementedError

    def _report(
        self, worker: int, agent_id: str, payload: dict[str, Any], fuse: int | None
    ) -> None:
        raise NotImplementedError

    def _instance(self, agent_id: str, whom: str) -> str | None:
        raise NotImplementedError
