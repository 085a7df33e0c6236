"""The replicas of an agent: their rows, their health checks, and when to retry a launch."""
