"""A table that grows row by row is what an array of all tuples is."""

import numpy as np
import pytest

from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE
from eyespot.data_pipeline.shards.paged import row_buffer
from eyespot.data_pipeline.shards.paged.row_buffer import RowBuffer


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 24])
def test_the_rows_are_those_that_were_added(count, monkeypatch):
    monkeypatch.setattr(row_buffer, "PORTION", 8)
    rows = [(number, 2**40 + number, 3, 2**32 - 1, 4, 5, -1) for number in range(count)]
    buffer = RowBuffer(INDEX_DTYPE)
    for row in rows:
        buffer.add(row)
    assert np.array_equal(buffer.table(), np.array(rows, INDEX_DTYPE)) and buffer.table().dtype == INDEX_DTYPE
