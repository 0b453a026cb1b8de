"""Samples in blocks of neighbouring rows, which the ranks of a node fetch once and share."""
