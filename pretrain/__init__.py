"""Objectives, engines, checkpoints and the one training loop. Knows data_pipeline; judging (eval) and machines
(cluster) import it.
"""
