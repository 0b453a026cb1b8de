"""TODO: supervisor."""
