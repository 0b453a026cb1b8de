"""Neighbours and clusters among more rows than fit into memory: files of rows, k-means, nearest rows, hashes."""
