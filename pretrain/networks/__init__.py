"""Modules that methods put together: encoders, heads, teachers, queues, decoders. No loss, no optimiser, no method:
objectives and engines import it.
"""
