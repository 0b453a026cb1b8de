"""One file per self-supervised method."""
