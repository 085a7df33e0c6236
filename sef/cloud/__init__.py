"""The few AWS calls that SEF makes, and what their errors mean."""
