"""Ground: files in, tensors out. Knows nothing of learning."""
