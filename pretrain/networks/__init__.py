"""TODO: networks."""
