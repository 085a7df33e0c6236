"""Test SEF; run pytest in the root folder of the repository."""
