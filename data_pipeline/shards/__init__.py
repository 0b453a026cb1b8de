"""TODO: shards."""
