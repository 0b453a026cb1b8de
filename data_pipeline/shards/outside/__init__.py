"""Sources of other makers: Parquet and Arrow tables, lists of paths, LMDB, what img2dataset writes."""
