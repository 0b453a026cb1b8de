"""One file per way of running an objective on many processes."""
