"""Rules of prose that a program can check."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    [
        *ROOT.glob("*.py"),
        *(path for folder in ("sef", "bench", "tests") for path in (ROOT / folder).rglob("*.py")),
    ]
)

BANNED_OPENINGS = {
    *("what", "which", "who", "whom", "whose"),
    *("whether", "how", "those", "one", "so", "as"),
}
"""Opening words that are neither a verb nor the name of a thing."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every docstring.

    Strings that follow the assignment of a constant or a field count as docstrings too.
    """
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for place, statement in enumerate(body):
            is_first = place == 0 and isinstance(node, Documented)
            is_text = (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
            )
            if is_text and (is_first or isinstance(body[place - 1], ast.Assign | ast.AnnAssign)):
                yield statement.lineno, statement.value.value


def is_banned(docstring: str) -> bool:
    first_word = re.match(r"[\s\"'(]*(\w+)", docstring)
    return first_word is not None and first_word[1].lower() in BANNED_OPENINGS


def test_no_docstring_opens_with_a_banned_word() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {' '.join(text.split())[:60]}"
        for path in SOURCES
        for line, text in sorted(docstrings(path.read_text()))
        if is_banned(text)
    ]
    if offenders:
        pytest.fail("\n".join([*offenders, f"{len(offenders)} docstrings"]), pytrace=False)


def test_the_check_finds_each_place_of_a_docstring() -> None:
    source = '''
"""What a module is."""
LIMIT = 3
"""How many there are."""
class Thing:
    """One of many."""
    field: int
    """Whose it is."""
    async def method(self) -> None:
        """Whether it runs."""
        text = "x"
        return text
'''
    found = sorted(docstrings(source))
    assert [line for line, _ in found] == [2, 4, 6, 8, 10]
    assert all(is_banned(text) for _, text in found)


def test_the_check_lets_verbs_nouns_and_code_pass() -> None:
    for text in ("Return what is left.", "Whatever follows.", "`so`: a shared object.", "", "..."):
        assert not is_banned(text)
