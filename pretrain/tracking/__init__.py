"""TODO: tracking."""
