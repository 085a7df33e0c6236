"""SEF, Smart Emergency Fallback."""

__version__ = "0.1.0"
