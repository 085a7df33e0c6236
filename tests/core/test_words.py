"""How sentences say numbers."""

import pytest

from sef.core.words import counted


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 instances"), (1, "1 instance"), (2, "2 instances")]
)
def test_counted(count: int, said: str) -> None:
    assert counted(count, "instance") == said
