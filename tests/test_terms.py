"""Words for numbers."""

import pytest

from sef.terms import plural


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 instances"), (1, "1 instance"), (2, "2 instances")]
)
def test_a_noun_is_plural_unless_the_count_is_1(count: int, text: str) -> None:
    assert plural(count, "instance") == text
