"""SEF (Smart Emergency Fallback) keeps services alive on AWS EC2 Spot."""

__version__ = "0.1.0"
