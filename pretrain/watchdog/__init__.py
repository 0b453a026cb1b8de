"""What the ranks know of each other while they train: which one died, hangs or is slow, and where time goes. Watches
the loop, and imports nothing of it.
"""
