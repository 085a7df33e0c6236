"""Sequences of ordinary events, played on the façade."""
