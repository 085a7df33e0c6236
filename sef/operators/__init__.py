"""Everything an operator asks for, and its answer, once for each Idempotency-Key."""
