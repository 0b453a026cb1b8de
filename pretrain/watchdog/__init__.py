"""TODO: watchdog."""
