"""Results as files: written, found, chosen, compared, put side by side. The bottom of the floor: computes no features,
so that reading one needs no torch.
"""
