"""A simulated EC2 in a process of its own."""

INFO_FILE = "simulated-ec2.json"
"""File in the state folder of a running simulator, with its pid, port and endpoint."""
