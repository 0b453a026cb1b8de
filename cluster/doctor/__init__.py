"""Doctor: finds out in the first seconds of a job, or before it, what would stop the run later. Starts no run: the
supervisor and the command import it.
"""
