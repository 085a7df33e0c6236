"""`sef adopt`: list the instances that the rows do not know, and adopt them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from sef.errors import SefError

Adopt = Callable[[str, str, str | None], Mapping[str, Any]]
"""Adopt an instance: agent, instance, role."""


def print_unknown(unknown: Sequence[Mapping[str, Any]]) -> None:
    """Print the instances by agent, each with the reason and the next step."""
    if not unknown:
        click.echo("SEF knows every running instance that it launched.")
        return
    for entry in sorted(unknown, key=lambda entry: (entry["agent_id"] or "", entry["instance_id"])):
        agent = f"agent {entry['agent_id']}" if entry["agent_id"] else "no agent"
        click.echo(f"{entry['instance_id']} ({agent}, {entry['pool_id']}): {entry['reason']}.")
        click.echo(f"  {entry['advice']}")


def adopt_undisputed(unknown: Sequence[Mapping[str, Any]], adopt: Adopt) -> int:
    """Adopt the only unknown instance of each agent whose primary does not run.

    An agent with a standby in the rows is left to the operator: after a switch, the former standby
    serves, and the unknown instance may be the next standby.

    Print each outcome. Return the number of instances that need a decision by name.
    """
    count = Counter(entry["agent_id"] for entry in unknown)
    undecided = []
    for entry in unknown:
        agent_id = entry["agent_id"]
        primary_runs = entry["primary_state"] in ("pending", "running")
        if agent_id is None or count[agent_id] > 1 or primary_runs or entry["has_standby"]:
            undecided.append(entry)
            continue
        try:
            click.echo(adopt(agent_id, entry["instance_id"], None)["message"])
        except SefError as error:
            click.echo(f"{entry['instance_id']} is not adopted: {error.message}")
            undecided.append(entry)
    if undecided:
        click.echo("These need your decision:")
        print_unknown(undecided)
    return len(undecided)
