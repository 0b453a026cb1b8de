"""Judges any encoder: a run's, a release's or timm's. Knows pretrain and data_pipeline; cluster imports it."""
