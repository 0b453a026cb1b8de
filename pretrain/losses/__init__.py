"""TODO: losses."""
