"""What a run will need, computed before it runs: memory, traffic, arithmetic, time."""
