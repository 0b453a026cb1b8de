"""Where shards lie: a folder of a file system, or a prefix of an object store, read in the same few ways."""
