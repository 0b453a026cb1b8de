"""TODO: optim."""
