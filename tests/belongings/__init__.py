"""What belongs to the service, moved on the façade."""
