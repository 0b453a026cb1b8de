"""TODO: encoders."""
