"""Releases: an encoder in timm's own format, with proof of where it comes from and that it arrived whole. Knows
results; no protocol and no report.
"""
