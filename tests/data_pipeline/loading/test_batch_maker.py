"""The threads that make views; what they make is tested in test_loader.py."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from eyespot.data_pipeline.loading.batch_maker import _one_openmp_thread


def test_threads_that_make_views_start_no_threads_and_change_no_others():
    torch.set_num_threads(3)  # as a program may that embeds us: applied to each thread at its first torch operation
    try:
        with ThreadPoolExecutor(2, initializer=_one_openmp_thread) as pool:
            barrier = threading.Barrier(2)

            def count() -> int:
                barrier.wait()
                torch.ones(1_000_000).mul_(2)
                return torch.get_num_threads()

            assert list(pool.map(lambda _: count(), range(2))) == [1, 1]
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(1)
