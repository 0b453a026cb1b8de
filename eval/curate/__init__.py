"""Which samples to learn from: duplicates, leaks of a test set, balance over clusters, neighbours of chosen images."""
