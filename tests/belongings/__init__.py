"""Move what belongs to the service, on the façade."""
