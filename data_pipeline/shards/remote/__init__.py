"""Shard folders in object stores as wholes: found, and compared with their manifests."""
