"""TODO: monitors."""
