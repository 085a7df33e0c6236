"""Writes the history with its transaction and notifies people afterwards."""
