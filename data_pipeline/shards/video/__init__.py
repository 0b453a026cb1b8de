"""Videos as sources of clips: found, decoded once into frames, searched for what moves. Needs PyAV: the extra video."""
