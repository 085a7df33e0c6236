"""Move the cutover targets of an agent to its new primary, step by step, by compare-and-swap."""
