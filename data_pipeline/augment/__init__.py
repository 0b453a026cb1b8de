"""TODO: augment."""
