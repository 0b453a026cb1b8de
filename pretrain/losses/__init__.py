"""Losses that several methods share, exact on any number of ranks, and statistics of features. Functions of tensors: no
modules of a method, no settings of a run; objectives import it.
"""
