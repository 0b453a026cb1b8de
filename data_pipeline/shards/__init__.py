"""Shard folders on disk: written, indexed, checked, found. Makes no batches; loading imports it, never the other way
round.
"""
