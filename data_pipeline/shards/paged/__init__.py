"""Format 2 of a shard folder: an index in pieces, of which a process reads the pages that it needs."""
