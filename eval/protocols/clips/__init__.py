"""Protocols that ask about videos: what happens in them, when, and in which order."""
