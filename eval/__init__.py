"""Judges any encoder: a run or any timm model."""
