"""Runs SEF's command line in this process."""

import logging
from collections.abc import Mapping

from click.testing import CliRunner, Result

import backend


def invoke(*arguments: str, environment: Mapping[str, str]) -> Result:
    """Run a command; the log level that the command sets ends with it.

    Errors that end the real process with one line are in `exception` of the result.
    """
    log = logging.getLogger("sef")
    level = log.level
    try:
        return CliRunner().invoke(backend.main, arguments, env=environment)
    finally:
        log.setLevel(level)
