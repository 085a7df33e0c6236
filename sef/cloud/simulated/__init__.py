"""A simulated EC2, in a process of its own: `moto` with what it lacks put in front of it.

`sef.cloud.simulation` finds, starts and controls it; nothing else of the product knows it.
"""

INFO_FILE = "simulated-ec2.json"
"""In the folder of a running one: its pid, port and endpoint."""
