"""Images of any number of bands and of 8 or 16 bits: what they are in the shards, and which files they come from."""
