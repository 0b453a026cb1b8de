"""What submitted runs are doing, from their folders and SLURM: records, states, logs, cancelling. Imports no torch, and
starts nothing.
"""
