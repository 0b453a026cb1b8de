"""What a run tells about itself: metrics.jsonl, and MLflow as its mirror. Knows files and numbers, no tensors of a
network and no loop.
"""
