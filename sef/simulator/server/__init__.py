"""The process of the simulated EC2: `moto`, with what moto lacks put in front of it."""
