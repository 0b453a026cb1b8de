"""Encoders that somebody else has trained, and that a run only asks."""
