"""Objectives, engines, checkpoints and the one training loop."""
