"""Ground: files in, tensors out. Knows nothing of learning; pretrain, eval and cluster import it."""
