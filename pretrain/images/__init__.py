"""Operations on batches of images that methods share: colours, mixing, noise, turns, tiles. No parameters that learn,
no files of a run: networks and objectives import it.
"""
