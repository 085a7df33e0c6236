"""Plan what a call would do (dry run), and tell what an incident did (timeline)."""
