"""A simulated EC2 in a process of its own, and the client that starts and controls it."""

INFO_FILE = "simulated-ec2.json"
"""The file in the folder of a running simulator with its pid, port and endpoint."""
