"""The parts of the suite: each module measures one thing, by `measure`."""
