"""Kill the backend at every failpoint, and check that it recovers."""

import pytest

# Pytest rewrites the asserts of test modules only, and these modules assert too.
pytest.register_assert_rewrite("tests.crash.harness", "tests.crash.scenarios")
