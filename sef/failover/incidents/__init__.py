"""Record each instance being lost: its incident, signals, risk, and the history of its pool."""
