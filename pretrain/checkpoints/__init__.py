"""A run's state as files, whatever engine wrote it: reading, a rank's part, writing beside the training. Tensors by
name only: knows no network, no engine and no loop.
"""
