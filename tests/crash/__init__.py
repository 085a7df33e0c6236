"""The backend dies at every step there is."""

import pytest

# They assert, and are no tests that pytest would rewrite by itself.
pytest.register_assert_rewrite("tests.crash.harness", "tests.crash.scenarios")
