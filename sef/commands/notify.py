"""`sef notify`: print the outbox of notifications, or the result of a test of the channels."""

from collections.abc import Mapping
from typing import Any

import click


def print_test(errors: Mapping[str, str | None]) -> None:
    """Print the result of each channel: sent, or its error."""
    for name, error in errors.items():
        click.echo(f"{name}: {'sent' if error is None else f'not sent: {error}'}")


def print_outbox(outbox: Mapping[str, Any]) -> None:
    """Print the number of messages by status, and the newest that failed."""
    click.echo("{pending} pending, {sent} sent, {failed} failed".format_map(outbox))
    for row in outbox["last_failed"]:
        click.echo("{channel}: {title}, {kind}: {error}".format_map(row))
