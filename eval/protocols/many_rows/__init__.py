"""Protocols on more features than fit into memory: read from their files in pieces, by all ranks together."""
