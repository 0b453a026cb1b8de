"""TODO: loading."""
