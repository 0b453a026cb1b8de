"""Which of a run's checkpoints is best, as far as images without labels can tell."""
