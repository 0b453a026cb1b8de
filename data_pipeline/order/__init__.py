"""Which sample stands where in the endless stream: pure functions of (seed, epoch, position). Knows no shards, reads
nothing; loading imports it.
"""
