"""Samples of many frames on their way into shards and out: whether they are whole, and what they look like."""
