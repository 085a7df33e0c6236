"""The simulator's process: moto, with the behaviour of EC2 that moto lacks."""
