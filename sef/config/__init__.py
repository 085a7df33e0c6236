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

__all__ = ["Settings", "check", "comma_separated", "load", "variable"]

LONGEST_SHOWN = 100
"""Maximum length of the value in an error message, in characters."""

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
        name = _first_name(error)
        source = f"--{name.replace('_', '-')}" if name in given else variable(name)
        raise ConfigurationError(_first_error(error, source)) from None


def check(settings: Settings, **changes: Any) -> Settings:
    """Return the settings with the changes, checked as `load` checks them.

    `Settings.model_copy` checks nothing, so its result is checked here.

    Raises:
        ConfigurationError: a setting cannot be used. The message names the first of them.
    """
    try:
        return Settings(**settings.model_dump() | changes)
    except ValidationError as error:
        raise ConfigurationError(_first_error(error, _first_name(error))) from None


def variable(name: str) -> str:
    """Return the name of a setting's environment variable."""
    return PREFIX + name.upper()


def _first_name(error: ValidationError) -> str:
    return str(error.errors(include_url=False)[0]["loc"][0])


def _first_error(error: ValidationError, source: str) -> str:
    """Return the first error in one line; `source` is the name by which the setting was given."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if _first_name(error) in SECRETS else f"={_shortened(repr(first['input']))}"
    return f"{source}{shown}: {message}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


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
