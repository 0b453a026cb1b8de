"""Which samples of a source a cap leaves."""

import numpy as np

from eyespot.data_pipeline.loading.mixtures.cap import places_of_cap


def test_a_cap_takes_runs_of_neighbours_from_everywhere():
    for cap in (1, 2, 63, 64, 1000, 20_000, 99_999):
        found = places_of_cap(100_000, cap)
        assert len(found) == cap and (np.diff(found) > 0).all() and found[0] >= 0 and found[-1] < 100_000
        assert (places_of_cap(100_000, cap) == found).all()
    assert places_of_cap(100_000, 20_000)[-1] == 99_999
    assert np.diff(places_of_cap(100_000, 20_000)).max() < 3000  # nothing large is left out
    assert (np.diff(places_of_cap(100_000, 20_000)) == 1).mean() > 0.99  # blocks of the order are neighbours
    for cap in (100_000, 10**30, None):
        assert (places_of_cap(100_000, cap) == np.arange(100_000)).all()
