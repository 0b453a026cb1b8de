"""Shard folders that are made in parts: shares of a source packed by many tasks and merged, and shards added later."""
