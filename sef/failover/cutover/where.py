"""Describe where a target is, if it is not at the agent's primary."""

from collections.abc import Collection, Mapping

OTHER_SERVICE = "another service"
"""Stands for a service of AWS as a holder; the same as `sef.cloud.holders.OTHER_SERVICE`."""


def describe_place(
    name: str, holders: Collection[str], primary: str, unrelated: Mapping[str, str | None]
) -> str | None:
    """Return a sentence about a target that is elsewhere; None if it is at the primary.

    Args:
        name: the kind and the name of the target.
        holders: the instances that have it.
        unrelated: those of the holders that are unrelated to the agent, each with the agent that it
            serves, or None.
    """
    if primary in holders:
        return None
    place = place_of(name, holders, primary, unrelated)
    if name.startswith("target-group "):
        return f"{place}; SEF registers the new primary at the next promotion"
    if not holders:
        return f"{place}; SEF gives it to the new primary at the next promotion"
    if unrelated:
        return (
            f"{place}; SEF leaves it there, also at a promotion: move it to {primary} by hand, or "
            "remove the target"
        )
    return f"{place}; SEF takes it from there at the next promotion"


def place_of(
    name: str, holders: Collection[str], primary: str, unrelated: Mapping[str, str | None]
) -> str:
    """Return where a target is that is not at the primary, as a clause."""
    if name.startswith("target-group "):
        return f"your primary {primary} is not registered in {name}"
    described = ", ".join(
        describe_holder(holder, unrelated[holder]) if holder in unrelated else holder
        for holder in sorted(holders)
    )
    return f"{name} is at {described or 'no instance'}, not at your primary {primary}"


def describe_holder(instance_id: str, agent_id: str | None) -> str:
    """Return an instance that is unrelated to an agent, with the agent that it serves, if any."""
    if instance_id == OTHER_SERVICE:
        return f"{OTHER_SERVICE} of AWS"
    if agent_id is None:
        return f"{instance_id}, which was never the primary of the agent"
    return f"{instance_id}, which serves {agent_id}"
