"""How views are drawn and altered: crops, colours, RandAugment, erasing. Numbers and DALI operators, no files: shards
and loading import it, never the other way.
"""
