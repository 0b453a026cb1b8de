"""What a run will need, computed before it runs: memory, traffic, arithmetic, time. Reads the rest of pretrain; nothing
that trains imports it.
"""
