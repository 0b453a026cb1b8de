"""From a shard folder to batches of views on the device: order, reading ahead, DALI. The top of the floor: writes no
shards, and nothing in data_pipeline imports it.
"""
