"""The processes of a run: their group, what they exchange, how they meet and how they end. Knows no network and no
loop; nearly everything in pretrain imports it.
"""
