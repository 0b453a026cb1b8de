"""Optimisers, and which parameters decay. Works on whole tensors and on an engine's shards alike; knows no method and
no engine, which import it.
"""
