"""How sentences say numbers."""

import pytest

from sef.terms import plural


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 instances"), (1, "1 instance"), (2, "2 instances")]
)
def test_counted(count: int, said: str) -> None:
    assert plural(count, "instance") == said
