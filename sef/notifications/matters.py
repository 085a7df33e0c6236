"""The matter of a message: a key for all that it is about, so that each matter is told once."""

import hashlib
import json
import re

MATTER_LENGTH = 40
"""Length of a key of a matter, in hexadecimal digits."""

_LONGEST_WORD = 40
"""Length from which a word without spaces is an opaque token, such as an encoded message."""

# These parts differ between two reports of one obstacle, so `in_kind` removes them. Ids that an
# operator configures, such as sg-, ami- and eipalloc-, stay: another id is another obstacle.
_DETAILS = re.compile(
    r"""
      (?<=no\ pool\ has\ capacity)\ \([^)]*\)            # which pools were tried this time
    | \d{4}-\d\d-\d\d[T ]\d\d:\d\d\S*                      # a time
    | \b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b      # a request id, or a client token
    | \b(?:i|eni|r|sir|replica|incident|cutover)-[0-9a-f]{6,}\b  # what SEF or EC2 created
    | \b[a-z]{1,4}\d[\w-]*\.[\w-]+(?:\.[a-z]{2}(?:-[a-z]+)+-\d[a-z]?)?  # a type, or a pool
    | \b[a-z]{2}(?:-[a-z]+)+-\d[a-z]?\b                    # a zone
    | (?<![\w-])(?=[0-9a-f]*\d)[0-9a-f]{8,}(?![\w-])       # a hexadecimal token
    | (?<![\w-])\d+(?:[.:,]\d+)*(?![\w-])                  # a number, an address or a time of day
    """,
    re.VERBOSE | re.IGNORECASE,
)
_TOKEN = re.compile(rf"\S{{{_LONGEST_WORD},}}")


def matter_key(*parts: object) -> str:
    """Return the key of the matter that the parts name together, in their order."""
    text = json.dumps([str(part) for part in parts])
    return hashlib.sha256(text.encode()).hexdigest()[:MATTER_LENGTH]


def in_kind(sentence: str) -> str:
    """Return the sentence without the details that differ between two reports of one obstacle.

    Times, numbers, pools, request ids and the ids of instances are left out, since each retry has
    other ones. The ids of other resources stay.
    """
    return " ".join(_DETAILS.sub("*", _TOKEN.sub("*", sentence)).split())
