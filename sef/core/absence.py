"""Why an agent has no standby that is ready, in a sentence."""

from dataclasses import dataclass
from datetime import datetime

from sef.core.policy import CreateStandby, Step
from sef.core.replica import Status


@dataclass(frozen=True, slots=True)
class Absence:
    reason: str
    next_try_at: datetime | None
    """When the next one is tried, where that has to be waited for."""


def absence(
    step: Step,
    standby: tuple[Status, str | None] | None,
    put_off: tuple[datetime, str | None] | None,
    monitored: str | None,
) -> Absence | None:
    """None while a standby is ready.

    Args:
        step: what the policy wants next for the agent.
        standby: the live one's status and instance.
        put_off: until when the agent's work rests, and why.
        monitored: why the open incident asks for none, if it does not.
    """
    if standby is not None and standby[0] is Status.READY:
        return None
    if standby is not None and standby[1] is not None:
        return Absence(f"{standby[1]} is launching", None)
    if standby is None and not isinstance(step, CreateStandby):
        return Absence(monitored or "nothing asks for a standby", None)
    if put_off is not None:
        return Absence(put_off[1] or "it was put off", put_off[0])
    wanted = f": {step.reason}" if isinstance(step, CreateStandby) else ""
    return Absence(f"one is about to be launched{wanted}", None)
