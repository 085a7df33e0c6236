"""Measure SEF beside its peers, and render docs/benchmarks.md from the results."""
