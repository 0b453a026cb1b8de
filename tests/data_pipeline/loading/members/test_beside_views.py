"""Work is divided among threads; what views show beside images is tested with the views themselves."""

import pytest

from eyespot.data_pipeline.loading.members.beside_views import parts


@pytest.mark.parametrize("count", [0, 1, 5, 8, 64])
@pytest.mark.parametrize("num_threads", [1, 3, 8])
def test_all_rows_are_done_once(count: int, num_threads: int):
    shares = parts(count, num_threads)
    assert [row for share in shares for row in range(count)[share]] == list(range(count))
    assert len(shares) <= num_threads
