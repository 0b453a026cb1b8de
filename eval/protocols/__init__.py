"""TODO: protocols."""
