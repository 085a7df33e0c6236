"""Search all short sequences of events in a model of the control loop."""
