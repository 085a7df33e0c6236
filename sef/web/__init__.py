"""The HTTP API: reads requests, calls the façade, renders answers."""
