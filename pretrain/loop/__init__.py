"""TODO: loop."""
