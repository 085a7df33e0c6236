"""Load the settings from the environment and from the command line."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from sef import failpoints
from sef.config.renamed import NEW_NAMES
from sef.config.settings import PREFIX, Settings, comma_separated
from sef.errors import ConfigurationError

__all__ = ["Settings", "comma_separated", "load", "variable"]

SECRETS = ("database_url", "notification_urls")
"""Settings whose values may contain passwords; no message shows them."""


def load(**options: Any) -> Settings:
    """Return the settings: the options that are not None, then the environment, then the defaults.

    Raises:
        ConfigurationError: a setting cannot be used, or a variable that begins with SEF_ is not a
            setting. The message names the first of them.
    """
    _reject_unknown(os.environ)
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        source = f"--{name.replace('_', '-')}" if name in given else variable(name)
        message = first["msg"].removeprefix("Value error, ")
        shown = "" if name in SECRETS else f"={first['input']!r}"
        raise ConfigurationError(f"{source}{shown}: {message}") from None


def variable(name: str) -> str:
    """Return the name of a setting's environment variable."""
    return PREFIX + name.upper()


def _reject_unknown(environment: Mapping[str, str]) -> None:
    known = {variable(name) for name in Settings.model_fields} | {failpoints.VARIABLE}
    renamed = {variable(old): variable(new) for old, new in NEW_NAMES.items()}
    for name in environment:
        if not name.startswith(PREFIX) or name in known:
            continue
        if name in renamed:
            raise ConfigurationError(f"{name} was renamed; use {renamed[name]}")
        similar = get_close_matches(name, sorted(known), n=1, cutoff=0.8)
        hint = f"did you mean {similar[0]}? " if similar else ""
        raise ConfigurationError(
            f"{name}: unknown setting; {hint}docs/configuration.md lists all settings"
        )
