"""Play random stories against a model, with faults, crashes and races."""
