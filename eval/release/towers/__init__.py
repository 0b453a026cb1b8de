"""Releases of methods with two towers: the second tower, what brings both into one space, and its tokenizer."""
