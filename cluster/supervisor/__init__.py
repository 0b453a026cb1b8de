"""The process of a job on each node that starts the ranks and decides what follows their end. Imports no torch; launch
submits it.
"""
