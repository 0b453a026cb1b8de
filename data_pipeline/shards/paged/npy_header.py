"""What stands before the rows of an .npy file that somebody else may have written."""

import io
from tokenize import TokenError

import numpy as np

LARGEST_HEADER = 2**16
"""Bytes before the rows."""
FEWEST = 12
"""Bytes of the file that say how long its header is."""


def header_bytes(start: bytes) -> int:
    """How many bytes stand before the rows.

    Args:
        start: ``FEWEST`` bytes of the file.

    Raises:
        ValueError: it is no .npy file, or says more than ``LARGEST_HEADER``.
    """
    version = np.lib.format.read_magic(io.BytesIO(start))
    width = 2 if version == (1, 0) else 4
    size = 8 + width + int.from_bytes(start[8 : 8 + width], "little")
    if size > LARGEST_HEADER:
        raise ValueError(f"a header of {size} bytes")
    return size


def npy_header(content: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type, and where the rows begin.

    Args:
        content: the file, or its beginning.

    Raises:
        ValueError: it is no .npy file of rows behind each other.
    """
    file = io.BytesIO(content[:LARGEST_HEADER])
    version = np.lib.format.read_magic(file)
    if version not in {(1, 0), (2, 0), (3, 0)}:
        raise ValueError(f"npy version {version}")
    try:
        # Versions 2 and 3 have a longer length; 3 is in UTF-8, which is ASCII where a type's names are ours.
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except (TokenError, SyntaxError, MemoryError, RecursionError) as error:  # what NumPy lets through of a hostile one
        raise ValueError(f"its header is no header ({type(error).__name__})") from error
    if by_columns and len(shape) > 1:
        raise ValueError("its rows are stored column by column")
    return shape, dtype, file.tell()
