"""Launches and terminates EC2 instances, once, within EC2's rate and SEF's own limits."""
